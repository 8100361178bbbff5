"""How often nights miss a slowdown, and how often they ask or report in vain; naive rules beside it.

python tests/bench/simulate_nights.py [SERIES]: a table of 90 nights, 200 series a line.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qpipe.compare.intervals import paired_ratio
from qpipe.nightly.change_points import newest_change
from qpipe.nightly.rerun import LEVEL, Rerun, is_confirmed
from qpipe.types import Array

NIGHTS = 90
SERIES = 200
SERIES_OF_A_BOARD = 40
NOISE = 0.02  # from night to night
ROUND_NOISE = 0.02  # of the median of a round in a rerun
ROUNDS = 16
SLOWDOWN = 0.05
IN_TIME = 3  # nights within which a slowdown is to be reported
DISTURBANCE = 0.3  # of a disturbed night
FIRST = 14  # nights before anything may change


@dataclass
class Line:
    """What a rule did with the series of one line."""

    reported: int = 0  # slowdowns, in time
    slowed: int = 0  # series that were slowed
    alarms: int = 0  # in series, or before nights, in which nothing changed
    quiet_nights: int = 0  # of all series
    reruns: int = 0

    @property
    def found(self) -> str:
        """The share of the slowdowns that was reported in time."""
        return f"{100 * self.reported / self.slowed:.1f} %" if self.slowed else "-"

    @property
    def alarms_of_board(self) -> float:
        """False alarms of a board in 90 nights."""
        return self.alarms / max(1, self.quiet_nights) * NIGHTS * SERIES_OF_A_BOARD

    @property
    def reruns_of_board(self) -> float:
        """Reruns of a board in a night."""
        return self.reruns / max(1, self.quiet_nights) * SERIES_OF_A_BOARD


# a rule gets the values up to tonight, and the true ratio of the build of now to that of before
Rule = Callable[[Sequence[float], float], bool]


@dataclass
class ChangePoints:
    """The rule of `qpipe nightly`, with a rerun where it asks for one."""

    random: np.random.Generator
    is_same_build: bool = False
    reruns: int = 0

    def __call__(self, values: Sequence[float], ratio: float) -> bool:
        change = newest_change(values)
        if change is None:
            return False
        self.reruns += 1
        return is_confirmed(change, self._rerun(ratio))

    def _rerun(self, ratio: float) -> Rerun:
        if self.is_same_build:
            return Rerun(ratio * float(np.exp(self.random.normal(0, NOISE))))
        old = np.exp(self.random.normal(0, ROUND_NOISE, ROUNDS))
        new = ratio * np.exp(self.random.normal(0, ROUND_NOISE, ROUNDS))
        centre, interval = paired_ratio(new.tolist(), old.tolist(), LEVEL)
        assert interval is not None
        return Rerun(float(np.median(new)), float(np.median(old)), centre, *interval)


def five_percent(values: Sequence[float], _: float) -> bool:
    """More than 5 % against last night."""
    return len(values) > 1 and abs(values[-1] / values[-2] - 1) > 0.05


def three_sigma(values: Sequence[float], _: float) -> bool:
    """More than 3 standard deviations from the mean of the last 30 nights."""
    before = np.asarray(values[-31:-1])
    if len(before) < 5:
        return False
    return abs(values[-1] - float(before.mean())) > 3 * float(before.std(ddof=1))


def nights_of_series(
    random: np.random.Generator, *, slowed_at: int | None, disturbed: float
) -> Array:
    """Return the values of a series, which has a true level of 1."""
    values: Array = np.exp(random.normal(0, NOISE, NIGHTS))
    values[random.random(NIGHTS) < disturbed] *= 1 + DISTURBANCE
    if slowed_at is not None:
        values[slowed_at:] *= 1 + SLOWDOWN
    return values


def simulate(name: str, *, slows: bool, disturbed: float, series: int, seed: int = 0) -> Line:
    """Return what a rule does with so many series."""
    random = np.random.default_rng(seed)
    line = Line()
    for _ in range(series):
        slowed_at = int(random.integers(30, 60)) if slows else None
        values = nights_of_series(random, slowed_at=slowed_at, disturbed=disturbed).tolist()
        rule = _rule(name, random)
        line.slowed += slows
        line.reported += _watch(rule, values, slowed_at, line)
        if isinstance(rule, ChangePoints):
            line.reruns += rule.reruns
    return line


def _rule(name: str, random: np.random.Generator) -> Rule:
    if name == "qpipe nightly":
        return ChangePoints(random)
    if name == "the same, build unchanged":
        return ChangePoints(random, is_same_build=True)
    return five_percent if name == "5 % against last night" else three_sigma


def _watch(rule: Rule, values: Sequence[float], slowed_at: int | None, line: Line) -> bool:
    """Follow a series night by night; return whether its slowdown was reported in time."""
    last = NIGHTS if slowed_at is None else slowed_at + IN_TIME
    for night in range(FIRST, last):
        is_slow = slowed_at is not None and night >= slowed_at
        line.quiet_nights += not is_slow
        if rule(values[: night + 1], 1 + SLOWDOWN if is_slow else 1.0):
            if is_slow:
                return True
            line.alarms += 1
    return False


RULES = ("qpipe nightly", "the same, build unchanged", "5 % against last night", "3 sigma")


def main() -> None:
    """Print the table."""
    series = int(sys.argv[1]) if len(sys.argv) > 1 else SERIES
    print(f"{'rule':28} {'nights disturbed':>17} {'found in 3':>11} ", end="")
    print(f"{'false alarms':>13} {'reruns a night':>15}")
    for name in RULES:
        for disturbed in (0.0, 0.05):
            slowed = simulate(name, slows=True, disturbed=disturbed, series=series)
            stable = simulate(name, slows=False, disturbed=disturbed, series=series, seed=1)
            alarms = stable.alarms_of_board
            places = 0 if alarms >= 10 else 2
            reruns = f"{stable.reruns_of_board:.1f}" if "nightly" in name or "same" in name else "-"
            print(f"{name:28} {100 * disturbed:15.0f} % {slowed.found:>11} ", end="")
            print(f"{alarms:13.{places}f} {reruns:>15}")
    print(f"\n{series} series a line, {NIGHTS} nights, noise {100 * NOISE:g} %; slower by", end=" ")
    print(f"{100 * SLOWDOWN:g} % from a random night on; false alarms and reruns of a board with")
    print(f"{SERIES_OF_A_BOARD} series, false alarms in {NIGHTS} nights.")
    assert math.isfinite(alarms)


if __name__ == "__main__":
    main()
