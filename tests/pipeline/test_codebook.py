from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.errors import StageError
from qpipe.quant.codebook import (
    CODEBOOKS,
    apot,
    full_range,
    nearest,
    pot,
    uniform,
)
from qpipe.quant.scales import asymmetric_scale, symmetric_scale


@pytest.mark.parametrize(
    ("codebook", "levels"),
    [
        (uniform(2), [-1, 0, 1]),
        (uniform(4), list(range(-7, 8))),
        (full_range(4), list(range(-8, 8))),
        (pot(2), [-1, 0, 1]),
        (pot(3), [-4, -2, -1, 0, 1, 2, 4]),
        (pot(4), [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]),
        (apot(4), [-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_levels_are_exactly_these(codebook, levels):
    assert list(codebook.levels) == levels


def test_five_bits_of_additive_powers_of_two_are_16_magnitudes_of_the_paper():
    first, second = (0, 1 / 2, 1 / 8, 1 / 32), (0, 1 / 4, 1 / 16, 1 / 64)
    magnitudes = sorted({round((a + b) * 64) for a in first for b in second})
    assert [level for level in apot(5).levels if level >= 0] == magnitudes


def test_a_codebook_of_impossible_bits_names_the_range():
    with pytest.raises(StageError, match=r"^codebook pot: bits is 5; it must be 2 to 4$"):
        pot(5)


@given(
    name=st.sampled_from(sorted(CODEBOOKS)),
    x=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=30),
)
def test_no_level_is_nearer_than_the_nearest(name, x):
    codebook = CODEBOOKS[name](4)
    values = np.array(x, np.float32)
    distance = np.abs(nearest(codebook, values) - values.astype(np.float64))
    best = np.abs(values[:, np.newaxis] - np.array(codebook.levels, np.float64)).min(axis=1)
    np.testing.assert_array_equal(distance, best)


def test_ties_go_to_the_smaller_magnitude_where_levels_are_uneven_and_to_even_where_they_are_not():
    halves = np.array([-6.0, -3.0, -1.5, 0.5, 1.5, 3.0, 6.0, 48.0], np.float32)
    assert nearest(pot(4), halves).tolist() == [-4, -2, -1, 0, 1, 2, 4, 32]
    assert nearest(uniform(4), halves).tolist() == [-6, -3, -2, 0, 2, 3, 6, 7]


def test_per_channel_scales_are_those_of_each_channel_alone():
    array = np.random.default_rng(1).normal(size=(6, 4, 3, 3)).astype(np.float32)
    for method in ("minmax", "percentile", "mse"):
        together = symmetric_scale(array, pot(4), axis=0, method=method)
        alone = [symmetric_scale(channel, pot(4), axis=None, method=method) for channel in array]
        np.testing.assert_array_equal(together, alone)


def test_minmax_puts_the_largest_magnitude_on_the_largest_level():
    assert symmetric_scale(np.array([[0.5, -2.0]]), uniform(8), axis=None) == np.float32(2 / 127)


@pytest.mark.parametrize("codebook", [uniform(4), pot(4), apot(4)], ids=lambda c: c.name)
def test_least_squares_is_no_worse_than_minmax(codebook):
    array = np.random.default_rng(2).standard_t(3, size=(1, 5000)).astype(np.float32)

    def error(method):
        scale = symmetric_scale(array, codebook, axis=None, method=method)
        return float(np.sum((nearest(codebook, array / scale) * scale - array) ** 2))

    assert error("mse") <= error("minmax")


def test_a_channel_of_zeros_takes_the_largest_scale_of_the_others():
    array = np.array([[0.0, 0.0], [1.27, 0.0], [0.0, 12.7]], np.float32)
    np.testing.assert_allclose(
        symmetric_scale(array, uniform(8), axis=0), [0.1, 0.01, 0.1], rtol=1e-6
    )


def test_asymmetric_scale_spans_the_weights_own_interval():
    scale, zero_point = asymmetric_scale(np.array([[0.0, 2.55]], np.float32), bits=8, axis=None)
    assert (scale, zero_point) == (np.float32(2.55 / 255), -128)


@pytest.mark.parametrize("percentile", [90.0, 99.0])
def test_a_percentile_is_the_part_of_the_weights_that_the_interval_keeps(percentile):
    array = np.random.default_rng(3).normal(size=(1, 10_001)).astype(np.float32)
    scale, zero_point = asymmetric_scale(
        array, bits=8, axis=None, method="percentile", percentile=percentile
    )
    ends = (np.array([-128, 127]) - zero_point.astype(int)) * scale
    reach = 127 * symmetric_scale(
        array, uniform(8), axis=None, method="percentile", percentile=percentile
    )
    for low, high in (ends, (-reach, reach)):
        assert 100 * np.mean((low <= array) & (array <= high)) == pytest.approx(percentile, abs=0.5)


@pytest.mark.parametrize("percentile", [50.0, 100.1])
def test_a_percentile_that_means_nothing_is_refused_for_weights_too(percentile):
    array = np.ones((1, 4), np.float32)
    message = f"percentile is {percentile}; it must be above 50 and at most 100"
    with pytest.raises(StageError, match=message):
        symmetric_scale(array, uniform(8), axis=None, method="percentile", percentile=percentile)
    with pytest.raises(StageError, match=message):
        asymmetric_scale(array, bits=8, axis=None, method="percentile", percentile=percentile)
