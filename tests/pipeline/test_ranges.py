"""Ranges against numpy on the raw values: the histogram must not cost anything that shows."""

from __future__ import annotations

import time

import numpy as np
import pytest

from qpipe.errors import StageError
from qpipe.quant.ranges import Method, activation_range, histogram_intervals, quantization_error
from qpipe.quant.statistics import TensorStatistics, gather

METHODS: list[Method] = ["minmax", "percentile", "mse", "entropy"]
RANDOM = np.random.default_rng(3)
NORMAL = RANDOM.normal(size=(1, 8, 60, 60)).astype(np.float32)
HEAVY = RANDOM.standard_t(2, size=(1, 8, 60, 60)).astype(np.float32)
SHAPES = {
    "normal": NORMAL,
    "after relu": np.maximum(NORMAL, 0),
    "after relu6": np.clip(NORMAL * 4, 0, 6),
    "after silu": NORMAL * 3 / (1 + np.exp(-NORMAL * 3)),
    "heavy tails": HEAVY,
    "never negative": np.abs(HEAVY) + 2,
    "never positive": -np.abs(NORMAL),
}


def error(values: np.ndarray, low: float, high: float, bits: int) -> float:
    """The mean squared error of quantizing to unsigned integers."""
    step = (high - low) / (2**bits - 1)
    zero = np.rint(-low / step)
    codes = np.clip(np.rint(values / step) + zero, 0, 2**bits - 1)
    return float(np.mean(((codes - zero) * step - values.astype(np.float64)) ** 2))


@pytest.fixture(params=SHAPES)
def values(request: pytest.FixtureRequest) -> np.ndarray:
    return SHAPES[request.param]


def statistics(values: np.ndarray) -> TensorStatistics:
    return gather("t", [values])


@pytest.mark.parametrize("method", METHODS)
def test_a_range_contains_zero_and_lies_within_the_extremes(
    values: np.ndarray, method: Method
) -> None:
    low, high = activation_range(statistics(values), method)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)


def test_minmax_is_exact(values: np.ndarray) -> None:
    assert activation_range(statistics(values), "minmax") == (
        min(values.min(), 0),
        max(values.max(), 0),
    )


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_is_the_quantile_of_the_values_to_within_a_bin(
    values: np.ndarray, percentile: float
) -> None:
    out = (100 - percentile) / 2
    low, high = activation_range(statistics(values), "percentile", percentile=percentile)
    # a bin is 2^-7 wide; between two far values numpy interpolates, the histogram cannot know
    for found, part in ((low, out), (high, 100 - out)):
        ends = [np.percentile(values, part, method=method) for method in ("lower", "higher")]
        below, above = (
            float(np.clip(end, *((None, 0) if found == low else (0, None)))) for end in ends
        )
        assert below - abs(below) / 128 - 1e-12 <= found <= above + abs(above) / 128 + 1e-12


@pytest.mark.parametrize("bits", [4, 8])
def test_the_histogram_tells_the_quantization_error_of_the_values(
    values: np.ndarray, bits: int
) -> None:
    low, high = activation_range(statistics(values), "minmax")
    for part in (1.0, 0.7, 0.4):
        told = quantization_error(
            histogram_intervals(statistics(values)), np.array([[low * part, high * part]]), bits
        )[0]
        assert told == pytest.approx(error(values, low * part, high * part, bits), rel=0.02)


@pytest.mark.parametrize("bits", [4, 8])
def test_mse_is_as_good_as_a_search_on_the_values(values: np.ndarray, bits: int) -> None:
    lowest, highest = activation_range(statistics(values), "minmax")
    parts = np.linspace(0.05, 1, 39)
    best = min(
        error(values, lowest * one, highest * other, bits)
        for one in (parts if lowest else [1.0])
        for other in (parts if highest else [1.0])
    )
    low, high = activation_range(statistics(values), "mse", bits=bits)
    assert error(values, low, high, bits) <= best * 1.03


def test_after_relu_only_the_high_end_moves() -> None:
    low, high = activation_range(statistics(np.maximum(NORMAL, 0)), "mse", bits=4)
    assert low == 0
    assert 0 < high < NORMAL.max()


def test_entropy_cuts_outliers_and_keeps_what_has_none() -> None:
    with_outlier = np.append(np.abs(NORMAL), np.float32(60))
    assert activation_range(statistics(with_outlier), "entropy")[1] < 10
    even = np.linspace(0, 6, 20000, dtype=np.float32)
    assert activation_range(statistics(even), "entropy")[1] == 6


def test_zeros_do_not_move_the_entropy_range() -> None:
    positive = np.abs(HEAVY)
    mostly_zero = np.append(positive, np.zeros(positive.size * 9, np.float32))
    assert activation_range(statistics(mostly_zero), "entropy") == activation_range(
        statistics(positive), "entropy"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_a_constant_tensor_has_a_range(method: Method, value: float) -> None:
    low, high = activation_range(statistics(np.full((1, 2, 3, 3), value, np.float32)), method)
    assert (low, high) == (min(value, 0), max(value, 0))


@pytest.mark.parametrize("percentile", [50.0, 100.1, -3.0])
def test_a_percentile_that_means_nothing_is_refused(percentile: float) -> None:
    with pytest.raises(
        StageError, match=f"percentile is {percentile}; it must be above 50 and at most 100"
    ):
        activation_range(statistics(NORMAL), "percentile", percentile=percentile)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(
        StageError,
        match="range method 'max' is not known; valid methods are minmax, percentile, mse, entropy",
    ):
        activation_range(statistics(NORMAL), "max")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_hundred_tensors_take_seconds(method: Method) -> None:
    tensors = [statistics(SHAPES["normal"]), statistics(SHAPES["after relu6"])]
    start = time.process_time()
    for index in range(100):
        activation_range(tensors[index % 2], method)
    assert time.process_time() - start < 5
