"""How often two measurements of the same build are called different, at a nominal 1 %: by qpipe's interleaved rounds,
and by the naive way, all of one and then all of the other, their values compared by Welch's t test.

python tests/bench/bench_aa.py [idle|load] [PAIRS]

With `load` processes that spin come and go: they are there in half of the rounds, by chance. No round is left out for
the load: the statistics alone have to cope with it. Takes 4 to 8 s a pair and way, more with load.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from stand import DETECTOR, Stand, stand

import qpipe
from qpipe.compare.evidence import is_better
from qpipe.compare.statistics import paired_ratio

ROUNDS = 8
OPTIONS = {"values": 30, "warmup_s": 0.05}
NORMAL = 2.5758293035489004  # of the normal distribution, 99.5 %


def spin() -> None:
    """Load one core until killed."""
    while True:
        pass


class Loaded:
    """A device in half of whose rounds, each of so many builds, all cores are loaded."""

    def __init__(self, device: Any, seed: int, builds: int) -> None:
        self.device, self.builds, self.taken = device, builds, 0
        self.loaded = np.random.default_rng(seed).permutation(np.arange(2 * ROUNDS // builds) % 2 == 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def round(self, *arguments: Any, **options: Any) -> qpipe.Round:
        """As the device's."""
        loads = [multiprocessing.Process(target=spin, daemon=True) for _ in range(multiprocessing.cpu_count())]
        running = loads if self.loaded[self.taken // self.builds] else []
        self.taken += 1
        for each in running:
            each.start()
        try:
            found: qpipe.Round = self.device.round(*arguments, **options)
        finally:
            for each in running:
                each.kill()
                each.join()
        return found


def interleaved(bench: Stand, one: qpipe.Deployed, other: qpipe.Deployed) -> tuple[bool, bool]:
    """Whether the paired ratio of medians leaves out 1 by its 99 % interval; whether a front would call one better."""
    found = bench.measure(one, other, rounds=ROUNDS, precision=0, max_load=1.0, **OPTIONS)
    left, right = found[one.name], found[other.name]
    medians = [[statistics.median(values) for values in each.rounds] for each in (left, right)]
    interval = paired_ratio(medians[0], medians[1], 0.99)[1]
    different = interval is not None and not interval[0] <= 1 <= interval[1]
    return different, is_better(left, right, "min") or is_better(right, left, "min")


def naive(bench: Stand, one: qpipe.Deployed, other: qpipe.Deployed) -> bool:
    """Whether the means of all values differ, by Welch's t test as if each stood for itself."""
    sides = []
    for build in (one, other):
        taken = [bench.device.round(build.stored, bench.samples, budget_s=5.0, **OPTIONS) for _ in range(ROUNDS)]
        sides.append([value for each in taken for value in each.values_ms])
    apart = statistics.mean(sides[0]) - statistics.mean(sides[1])
    return bool(abs(apart) > NORMAL * sum(statistics.variance(side) / len(side) for side in sides) ** 0.5)


def compared(bench: Stand, builds: Sequence[qpipe.Deployed], loaded: bool, pairs: int) -> list[int]:
    """How often each way finds a difference."""
    one, other = builds
    counts, plain = np.zeros(3, int), bench.device
    for seed in range(pairs):
        bench.device = Loaded(plain, seed, 2) if loaded else plain
        found = interleaved(bench, one, other)
        bench.device = Loaded(plain, seed, 1) if loaded else plain
        counts += [*found, naive(bench, one, other)]
    bench.device = plain
    return [int(count) for count in counts]


def main() -> None:
    """Print a row of the table in README.md."""
    condition = sys.argv[1] if len(sys.argv) > 1 else "idle"
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    with stand() as bench:
        builds = [bench.put(name, DETECTOR) for name in ("net/one/ort", "net/other/ort")]
        rounds, verdicts, means = compared(bench, builds, condition == "load", pairs)
    print("| machine | pairs | paired rounds, 99 % | a front's verdict | means, one after the other |")
    print("|---|---|---|---|---|")
    print(f"| {condition} | {pairs} | {rounds} | {verdicts} | {means} |")


if __name__ == "__main__":
    main()
