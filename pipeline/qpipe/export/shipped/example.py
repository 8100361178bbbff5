"""Loads the model as it was measured and compares its outputs with the golden ones; needs numpy and the runtime."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np


def main(here: Path) -> None:
    """Run the golden samples; exit status 1 where an output is not what was exported."""
    manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    infer = runpy.run_path(str(here / "load.py"))["load"](here, manifest)
    golden = np.load(here / "golden.npz")
    for number, sample in enumerate(manifest["golden"]["samples"]):
        outputs = infer(
            {each["name"]: golden[f"{number}/in/{each['name']}"] for each in manifest["inputs"]}
        )
        for name, output in outputs.items():
            expected = golden[f"{number}/out/{name}"]
            off = np.abs(output.astype(np.float64) - expected).max() / max(
                np.ptp(expected.astype(np.float64)), 1e-6
            )
            sys.stdout.write(
                f"{sample} {name} {list(output.shape)}: off by {100 * off:.3g} % of its span\n"
            )
            if not off <= manifest["golden"]["tolerance"]:
                raise SystemExit(f"{name} of {sample} is not what was exported")


if __name__ == "__main__":
    main(Path(__file__).parent)
