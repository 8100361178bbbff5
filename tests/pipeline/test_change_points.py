"""Changes of the level of a series of nights: found, not found, and not taken for what they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qpipe.nightly.change_points import Change, is_beyond_doubt, newest_change
from qpipe.nightly.rerun import Rerun, is_confirmed

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import simulate_nights


def series(nights: int, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    return 10 * np.exp(np.random.default_rng(seed).normal(0, noise, nights))


def test_a_new_level_is_found_with_its_first_night() -> None:
    values = series(40)
    values[36:] *= 1.1
    change = newest_change(values.tolist())
    assert change is not None
    assert change.start == 36
    assert change.before == pytest.approx(np.median(values[:36]), rel=0.005)
    assert change.after == pytest.approx(np.median(values[36:]), rel=0.005)
    assert change.noise == pytest.approx(0.01, rel=0.4)
    assert (change.nights_before, change.nights_after) == (36, 4)


@pytest.mark.parametrize("seed", range(5))
def test_a_stable_series_and_one_that_has_three_nights_have_no_change(seed: int) -> None:
    assert newest_change((10 + 0 * series(40)).tolist()) is None
    assert newest_change(series(3, 0.1, seed).tolist()) is None
    assert newest_change([]) is None


def test_nights_that_stand_alone_do_not_hide_a_change_nor_are_one() -> None:
    values = series(40, 0.005)
    values[[7, 20, 30]] *= 1.3
    assert newest_change(values.tolist()) is None
    values[38:] *= 1.05
    change = newest_change(values.tolist())
    assert change is not None
    assert change.start == 38


def test_a_change_within_the_noise_of_the_canary_is_none() -> None:
    values = series(40, 0.002)
    values[37:] *= 1.03
    assert newest_change(values.tolist()) is not None
    assert newest_change(values.tolist(), canary_noise=0.05) is None
    smaller = series(40, 0.0005)
    smaller[37:] *= 1.015
    assert newest_change(smaller.tolist()) is None, "less than 2 %"


CHANGE = Change(30, 10.0, 10.5, 0.02, 30, 1)


@pytest.mark.parametrize(
    ("result", "holds"),
    [
        (Rerun(10.5, 10.0, 1.05, 1.03, 1.07), True),
        (Rerun(10.5, 10.0, 1.05, 0.99, 1.11), False),  # may be none
        (Rerun(10.1, 10.0, 1.01, 1.005, 1.015), False),  # is less than 2 %
        (Rerun(9.5, 10.0, 0.95, 0.93, 0.97), False),  # is the other way round
        (Rerun(10.5), False),  # one night at 2 % of noise
    ],
)
def test_what_a_rerun_confirms(result: Rerun, holds: bool) -> None:
    assert is_confirmed(CHANGE, result) == holds


def test_a_build_that_is_the_same_takes_a_change_that_is_large_or_lasts() -> None:
    lasting = Change(30, 10.0, 10.5, 0.02, 30, 12)
    assert is_beyond_doubt(lasting, 10.6)
    assert not is_beyond_doubt(lasting, 10.1), "it is over tonight"
    assert is_beyond_doubt(Change(30, 10.0, 14.0, 0.02, 30, 1), 14.0)
    assert not is_beyond_doubt(Change(3, 10.0, 10.5, 0.0, 3, 1), 10.5), "three nights tell no noise"


def test_nights_find_a_slowdown_that_naive_rules_miss_or_drown_in_alarms() -> None:
    """The table of tests/bench/README.md, with fewer series."""
    slowed = simulate_nights.simulate("qpipe nightly", slows=True, disturbed=0.05, series=40)
    stable = simulate_nights.simulate("qpipe nightly", slows=False, disturbed=0.05, series=8)
    assert slowed.reported >= 0.9 * slowed.slowed
    assert stable.alarms == 0
    naive = simulate_nights.simulate("3 sigma", slows=True, disturbed=0.05, series=40)
    assert naive.reported < 0.7 * naive.slowed
