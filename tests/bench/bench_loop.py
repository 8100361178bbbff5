"""The shipped detector's median by qpipe against that of a bare Python loop around the runtime, the same inferences in
fresh processes that take turns.

python tests/bench/bench_loop.py [ROUNDS] [--resume FILE]

Takes 3 to 5 s a round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from stand import DETECTOR, Stand, arguments, each, stand

import qpipe
from qpipe.compare.intervals import paired_ratio

VALUES, WARMUP_S = 200, 0.5
LOOP = """
import statistics, sys, time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {session.get_inputs()[0].name: np.load(sys.argv[2])}
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    session.run(None, feeds)
times = []
for _ in range(int(sys.argv[4])):
    start = time.perf_counter_ns()
    session.run(None, feeds)
    times.append(time.perf_counter_ns() - start)
print(statistics.median(times) / 1e6)
"""


def bare(model: Path, picture: Path) -> float:
    """The median of the loop, in ms."""
    command = [sys.executable, "-c", LOOP, str(model), str(picture), str(WARMUP_S), str(VALUES)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def by_qpipe(bench: Stand, build: qpipe.Deployed) -> float:
    """The median of one round, in ms."""
    taken = bench.device.round(
        build.stored, bench.samples, warmup_s=WARMUP_S, values=VALUES, budget_s=10.0
    )
    return statistics.median(taken.values_ms)


def fed(bench: Stand) -> np.ndarray:
    """The picture as qpipe feeds it."""
    scaled = (bench.pixels.astype(np.float32) - 127.5) / 127.5
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def main() -> None:
    """Print a row of the table in README.md."""
    given = arguments(__doc__, 60)
    with stand() as bench:
        build = bench.put("net/float32/ort", DETECTOR)
        manifest = json.loads((build.build.folder / "build.json").read_text(encoding="utf-8"))
        model, picture = build.build.folder / manifest["model"], bench.folder / "picture.npy"
        np.save(picture, fed(bench))
        ways = {"qpipe": lambda: by_qpipe(bench, build), "loop": lambda: bare(model, picture)}

        def turn(number: int) -> dict[str, float]:
            return {way: ways[way]() for way in (list(ways) if number % 2 else reversed(ways))}

        found = each(given, turn)
    own, loop = ([row[way] for row in found] for way in ways)
    ratio, interval = paired_ratio(own, loop)
    low, high = interval or (ratio, ratio)
    print("| rounds | qpipe, ms | bare loop, ms | qpipe / loop |\n|---|---|---|---|")
    medians = " | ".join(f"{statistics.median(way):.3f}" for way in (own, loop))
    print(f"| {len(found)} | {medians} | {ratio:.3f} ({low:.3f} to {high:.3f}) |")


if __name__ == "__main__":
    main()
