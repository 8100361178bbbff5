"""The solver against numpy, and the stage against qpipe's conformance kit."""

from __future__ import annotations

import numpy as np
import pytest

from qpipe import testing
from qpipe_hqq.solver import extremes, shrink, solve


def heavy_tailed(seed: int = 0, rows: int = 8, length: int = 400) -> np.ndarray:
    """Weights as layers have them: many near zero, few far out."""
    return np.random.default_rng(seed).standard_t(3, (rows, length))


def test_shrink_with_norm_1_is_the_soft_threshold() -> None:
    errors = np.array([-3.0, -0.2, 0.0, 0.3, 2.0])
    np.testing.assert_allclose(shrink(errors, beta=2.0, p=1.0), [-2.5, 0, 0, 0, 1.5])


def test_shrink_follows_the_published_formula() -> None:
    # |x| - |x|^(p-1) / beta at x = 0.25, p = 0.5, beta = 16: 0.25 - 2 / 16
    assert shrink(np.array([0.25]), beta=16.0, p=0.5) == pytest.approx([0.125])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_no_row_is_worse_than_between_its_extremes_and_most_are_better(bits, is_symmetric) -> None:
    rows = heavy_tailed()
    plain = extremes(rows, bits, is_symmetric=is_symmetric).error(rows, 0.7)
    solved = solve(rows, bits, p=0.7, is_symmetric=is_symmetric).error(rows, 0.7)
    assert (solved <= plain).all()
    assert np.mean(solved < plain) > 0.5


def test_a_zero_weight_stays_zero() -> None:
    rows = np.hstack([heavy_tailed(), np.zeros((8, 1))])
    levels = solve(rows, 4, p=0.7)
    assert (levels.values(levels.codes(rows))[:, -1] == 0).all()
    assert (levels.zero_point == np.rint(levels.zero_point)).all()


def test_rows_of_zeros_have_a_scale() -> None:
    levels = solve(np.zeros((2, 5)), 4, p=0.7)
    assert (levels.scale > 0).all()
    assert (levels.values(levels.codes(np.zeros((2, 5)))) == 0).all()


@pytest.mark.parametrize("check", testing.checks("quantize", "hqq"), ids=str)
def test_it_conforms(check: testing.Check) -> None:
    check()


@pytest.mark.parametrize("options", [{"symmetric": True}, {"granularity": "tensor", "bits": 8}])
def test_it_conforms_with_other_options(options) -> None:
    results = [check.result() for check in testing.checks("quantize", "hqq", options=options)]
    assert [result for result in results if result.state == "failed"] == []
