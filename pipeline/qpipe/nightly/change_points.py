"""Whether a series of nights has changed its level, and when.

The method is PELT (Killick, Fearnhead & Eckley 2012, "Optimal detection of changepoints with a
linear computational cost") for changes of the mean of the logarithms, as `ruptures` has it. A
change is reported once another run of old and new in one session confirms it, so that the threshold
may be low: `tests/bench/simulate_nights.py` shows how often it misses or asks in vain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpipe.errors import QpipeError
from qpipe.types import Array

FEWEST_BEFORE = 3  # nights on a level, from which on a change of it can be seen
WINDOW = 60  # the newest nights that are looked at
LONGEST_NEW = 14  # nights on a level that is new
# a change of the mean has to stand out of the noise by so many standard errors
STANDARD_ERRORS = 2.4
ERRORS_BEYOND_DOUBT = 5.5  # with which a change is reported that no pair of builds can confirm
SMALLEST_CHANGE = 0.02  # of the value: a smaller change is never reported
# of a healthy bench: what few nights show of the noise is weighed with so many nights of this
USUAL_NOISE = 0.02
USUAL_NIGHTS = 6
SMALLEST_NOISE = 0.002  # a series that repeats better than this is taken to be as noisy
OUTLIER = 4.0  # a night stands alone where it is so many times the noise from its neighbours
NEIGHBOURS = 3  # on either side
MEDIAN_TO_SIGMA = 1.4826 / math.sqrt(2)  # of absolute differences of neighbours, to normal noise


@dataclass(frozen=True)
class Change:
    """A level of a series that differs from the one before."""

    start: int  # the first night of the new level, by its place in the series
    before: float  # geometric means of the two levels
    after: float
    noise: float  # of one night, relative
    nights_before: int
    nights_after: int

    @property
    def logarithm(self) -> float:
        """The logarithm of after / before."""
        return math.log(self.after / self.before)


def newest_change(values: Sequence[float], *, canary_noise: float = 0.0) -> Change | None:
    """Return the newest change of the level of a series of nights; None where it has none.

    Values are positive, the newest last. A change is larger than SMALLEST_CHANGE, than the noise of
    the series, and than that of the canary on the same board.
    """
    if len(values) <= FEWEST_BEFORE:
        return None
    logarithms = np.log(np.asarray(values, np.float64))
    places = _lasting_nights(logarithms)[-WINDOW:]
    if len(places) <= FEWEST_BEFORE:
        return None
    levels = logarithms[places]
    noise = max(nightly_noise(levels), SMALLEST_NOISE)
    start = _newest_start(levels, noise)
    if start < FEWEST_BEFORE or len(levels) - start > LONGEST_NEW:
        return None
    before = float(np.median(levels[:start]))
    after = float(np.median(levels[start:]))
    if abs(after - before) < max(SMALLEST_CHANGE, noise, canary_noise):
        return None
    return Change(
        places[start], math.exp(before), math.exp(after), noise, start, len(levels) - start
    )


def is_beyond_doubt(change: Change, again: float) -> bool:
    """Return whether a change, with one more value of tonight, is no matter of chance.

    The value has to be on the new side, and the mean of the new level many standard errors away: it
    is one of many series and many nights that are looked at.
    """
    if change.logarithm * (math.log(again / change.before) - change.logarithm / 2) < 0:
        return False
    nights = change.nights_after + 1
    distance = (change.nights_after * change.logarithm + math.log(again / change.before)) / nights
    nights_before = change.nights_before
    variance = (nights_before * change.noise**2 + USUAL_NIGHTS * USUAL_NOISE**2) / (
        nights_before + USUAL_NIGHTS
    )
    error = math.sqrt(variance * (1 / nights + 1 / nights_before))
    return abs(distance) > ERRORS_BEYOND_DOUBT * error


def nightly_noise(logarithms: Array) -> float:
    """Return the standard deviation from night to night, by the differences of neighbours.

    A change of the level is one difference among many.
    """
    if len(logarithms) < 2:
        return 0.0
    return float(np.mean(np.abs(np.diff(logarithms))) * math.sqrt(math.pi) / 2)


def _lasting_nights(logarithms: Array) -> list[int]:
    """Return the nights without those that stand alone: far from the nights before and after.

    The newest night always counts, as it may be the first of a new level.
    """
    differences = np.abs(np.diff(logarithms))
    limit = OUTLIER * max(MEDIAN_TO_SIGMA * float(np.median(differences)), SMALLEST_NOISE)
    padded = np.pad(logarithms, NEIGHBOURS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, NEIGHBOURS)
    medians = np.nanmedian(windows[1:-1], axis=1)  # of the windows that have a night in them
    far_from_before = np.abs(logarithms[1:] - medians[: len(logarithms) - 1]) > limit
    far_from_after = np.abs(logarithms[:-1] - medians[NEIGHBOURS:]) > limit
    stands_alone = np.concatenate(
        [far_from_after[:1], far_from_before[:-1] & far_from_after[1:], [False]]
    )
    return [int(place) for place in np.flatnonzero(~stands_alone)]


def _newest_start(logarithms: Array, noise: float) -> int:
    """Return the place at which the newest level begins; 0 where there is only one."""
    penalty = (STANDARD_ERRORS * noise) ** 2
    detector = _detector()(kernel="linear", min_size=1)
    breaks: list[int] = detector.fit_predict(logarithms.reshape(-1, 1), pen=penalty)
    return int(breaks[-2]) if len(breaks) > 1 else 0


def _detector() -> Callable[..., Any]:
    """Return PELT in C; with the linear kernel its cost is the squared distance from the mean."""
    try:
        from ruptures import KernelCPD
    except ImportError as error:
        raise QpipeError(
            "ruptures is not installed, which finds changes from night to night; run: "
            "pip install 'qpipe-edge[nightly]'"
        ) from error
    detector: Callable[..., Any] = KernelCPD
    return detector
