"""Every benchmark of the project in turn; what each claims stands in README.md beside this file.

python tests/bench/run.py [MODEL IMAGES]

MODEL and IMAGES (an ONNX image classifier that takes pixels / 127.5 - 1, and a folder of images of its size) are for
the calibration benchmark; the others use what the project ships.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run them one after the other: nothing else should run meanwhile."""
    benchmarks: list[tuple[str, list[str]]] = [
        ("bench_help.py", []), ("bench_engine.py", []), ("bench_queries.py", []), ("bench_builds.py", []), ("bench_loop.py", []), ("simulate_coverage.py", []),
    ]  # fmt: skip
    if len(sys.argv) == 3:
        benchmarks.append(("bench_calibration.py", sys.argv[1:]))
    for name, arguments in benchmarks:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(HERE / name), *arguments], check=True)


if __name__ == "__main__":
    main()
