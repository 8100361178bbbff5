"""How often two measurements of the same build are called different, at a nominal 1 %: by qpipe's interleaved rounds,
and by the naive way, all of one and then all of the other, their values compared by Welch's t test.

python tests/bench/bench_aa.py [idle|load] [PAIRS] [--resume FILE]

With `load` processes that spin come and go: they are there in half of the rounds, by chance. No round is left out for
the load: the statistics alone have to cope with it. Takes 10 s a pair, more with load. A file for each of both.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stand import Stand, arguments, chain, each, stand

import qpipe
from qpipe.compare.evidence import is_better
from qpipe.compare.intervals import paired_ratio

LAYERS = 20
ROUNDS = 6  # from which on a front believes what it sees
OPTIONS = {"values": 50, "warmup_s": 0.05}
NORMAL = 2.5758293035489004  # of the normal distribution, 99.5 %


def spin() -> None:
    """Load one core until killed."""
    while True:
        pass


class Loaded:
    """A device in half of whose rounds, each of so many builds, all cores are loaded."""

    def __init__(self, device: Any, seed: int, builds: int) -> None:
        self.device, self.builds, self.taken = device, builds, 0
        self.loaded = np.random.default_rng(seed).permutation(
            np.arange(2 * ROUNDS // builds) % 2 == 0
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def round(self, *arguments: Any, **options: Any) -> qpipe.Round:
        """As the device's."""
        loads = [
            multiprocessing.Process(target=spin, daemon=True)
            for _ in range(multiprocessing.cpu_count())
        ]
        running = loads if self.loaded[self.taken // self.builds] else []
        self.taken += 1
        for load in running:
            load.start()
        try:
            found: qpipe.Round = self.device.round(*arguments, **options)
        finally:
            for load in running:
                load.kill()
                load.join()
        return found


def interleaved(bench: Stand, one: qpipe.Deployed, other: qpipe.Deployed) -> tuple[bool, bool]:
    """Whether the paired ratio of medians leaves out 1 by its 99 % interval; whether a front would call one better."""
    found = bench.measure(one, other, rounds=ROUNDS, precision=0, max_load=1.0, **OPTIONS)
    left, right = found[one.name], found[other.name]
    medians = [[statistics.median(values) for values in side.rounds] for side in (left, right)]
    interval = paired_ratio(medians[0], medians[1], 0.99)[1]
    different = interval is not None and not interval[0] <= 1 <= interval[1]
    return different, is_better(left, right, "min") or is_better(right, left, "min")


def naive(bench: Stand, one: qpipe.Deployed, other: qpipe.Deployed) -> bool:
    """Whether the means of all values differ, by Welch's t test as if each stood for itself."""
    sides = []
    for build in (one, other):
        taken = [
            bench.device.round(build.stored, bench.samples, budget_s=5.0, **OPTIONS)
            for _ in range(ROUNDS)
        ]
        sides.append([value for one in taken for value in one.values_ms])
    apart = statistics.mean(sides[0]) - statistics.mean(sides[1])
    return bool(
        abs(apart) > NORMAL * sum(statistics.variance(side) / len(side) for side in sides) ** 0.5
    )


def compared(
    bench: Stand, builds: Sequence[qpipe.Deployed], loaded: bool, seed: int
) -> dict[str, bool]:
    """Which ways find a difference between two."""
    plain = bench.device
    try:
        bench.device = Loaded(plain, seed, 2) if loaded else plain
        rounds, verdict = interleaved(bench, *builds)
        bench.device = Loaded(plain, seed, 1) if loaded else plain
        return {"rounds": rounds, "verdict": verdict, "means": naive(bench, *builds)}
    finally:
        bench.device = plain


def main() -> None:
    """Print a row of the table in README.md."""
    given = arguments(__doc__, 40, "idle", "load")
    with tempfile.TemporaryDirectory() as name:
        network = chain(Path(name) / "chain.onnx", LAYERS)
        with stand(network) as bench:
            builds = [bench.put(name, network) for name in ("net/one/ort", "net/other/ort")]
            found = each(given, lambda number: compared(bench, builds, given.of == "load", number))
    counts = " | ".join(
        str(sum(row[way] for row in found)) for way in ("rounds", "verdict", "means")
    )
    print(
        "| machine | pairs | paired rounds, 99 % | a front's verdict | means, one after the other |"
    )
    print("|---|---|---|---|---|")
    print(f"| {given.of} | {len(found)} | {counts} |")


if __name__ == "__main__":
    main()
