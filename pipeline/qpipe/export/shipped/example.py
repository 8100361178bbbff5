"""Load the model as it was measured, and compare its outputs with the golden ones.

It needs numpy and the runtime.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Run the golden samples; exit with status 1 where an output is not what was exported."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    infer = runpy.run_path(str(folder / "load.py"))["load"](folder, manifest)
    golden = np.load(folder / "golden.npz")
    input_names = [declaration["name"] for declaration in manifest["inputs"]]
    for number, sample in enumerate(manifest["golden"]["samples"]):
        feeds = {name: golden[f"{number}/in/{name}"] for name in input_names}
        for name, output in infer(feeds).items():
            expected = golden[f"{number}/out/{name}"]
            deviation = relative_deviation(output, expected)
            line = f"{sample} {name} {list(output.shape)}: off by {100 * deviation:.3g} %"
            sys.stdout.write(f"{line} of its span\n")
            if not deviation <= manifest["golden"]["tolerance"]:
                raise SystemExit(f"{name} of {sample} is not what was exported")


def relative_deviation(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest deviation of an output, as a part of the span of what is expected."""
    exact = expected.astype(np.float64)
    span = max(np.ptp(exact), 1e-6)
    return float(np.abs(output.astype(np.float64) - exact).max() / span)


if __name__ == "__main__":
    main(Path(__file__).parent)
