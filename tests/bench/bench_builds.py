"""Speed and size of the files that schemes make, against the runtime's own quantizer, in one interleaved run.

python tests/bench/bench_builds.py [RECIPE [NAME=VALUE ...]]

RECIPE has the schemes int8-channel (symmetric, per-channel), log4 and onnxruntime; the shipped detector's by default.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCHEMES = ("int8-channel", "log4", "onnxruntime")


def measured(recipe: str, settings: list[str]) -> dict[str, dict[str, Any]]:
    """One run of the recipe's three schemes in an empty cache; metrics by scheme."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "qpipe"), "run", recipe, "--json"]
        command += ["--db", f"{folder}/results.db", "--cache", f"{folder}/cache"]
        for scheme in SCHEMES:
            command += ["--only", scheme]
        for setting in settings:
            command += ["--set", setting]
        rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {row["scheme"]: row["metrics"] for row in rows}


def main() -> None:
    """Print the three ratios."""
    recipe = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "recipes/mobilenet_ssd.yaml")
    found = measured(recipe, sys.argv[2:])
    time = {scheme: metrics["latency_ms"]["value"] for scheme, metrics in found.items()}
    size = {scheme: metrics["size_mb"]["value"] for scheme, metrics in found.items()}
    print(f"latency int8-channel / onnxruntime: {time['int8-channel'] / time['onnxruntime']:.3f} (at most 1.02)")
    print(f"latency log4 / int8-channel: {time['log4'] / time['int8-channel']:.3f} (at most 1.05)")
    print(f"size log4 / int8-channel: {size['log4'] / size['int8-channel']:.3f} (at most 0.6)")
    for scheme, metrics in found.items():
        print(f"  {scheme}: {time[scheme]:.3f} ms, {size[scheme]:.3f} MB, SQNR {metrics['sqnr_db']['value']:.1f} dB")


if __name__ == "__main__":
    main()
