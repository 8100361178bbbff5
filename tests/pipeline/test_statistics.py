"""Calibration statistics against numpy on the raw values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.errors import StageError
from qpipe.quant.statistics import Statistics, TensorStatistics, gather


def arrays(count: int, shape: tuple[int, ...] = (1, 3, 5, 7), seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(1, 3, shape).astype(np.float32) for _ in range(count)]


def upper_halves(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.reshape(-1).view(np.uint32) >> 16, minlength=1 << 16)


def assert_same(one: TensorStatistics, other: TensorStatistics) -> None:
    assert (one.name, one.count, one.minimum, one.maximum) == (
        other.name,
        other.count,
        other.minimum,
        other.maximum,
    )
    assert np.array_equal(one.histogram, other.histogram)
    for column in ("channel_minimum", "channel_maximum"):
        assert np.array_equal(getattr(one, column), getattr(other, column))
    for column in ("channel_mean", "channel_variance"):
        np.testing.assert_allclose(getattr(one, column), getattr(other, column), rtol=1e-9)


def test_extremes_histogram_and_channels_are_those_of_the_values() -> None:
    samples = arrays(4)
    values = np.concatenate(samples)
    found = gather("t", samples)
    assert found.count == values.size
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert np.array_equal(found.histogram, upper_halves(values))
    assert np.array_equal(found.channel_minimum, values.min(axis=(0, 2, 3)))
    assert np.array_equal(found.channel_maximum, values.max(axis=(0, 2, 3)))
    exact = values.astype(np.float64)
    np.testing.assert_allclose(found.channel_mean, exact.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.channel_variance, exact.var(axis=(0, 2, 3)), rtol=1e-5)


def test_variance_survives_a_mean_that_is_far_larger() -> None:
    samples = [array + np.float32(1000) for array in arrays(3)]
    exact = np.concatenate(samples).astype(np.float64).var(axis=(0, 2, 3))
    np.testing.assert_allclose(gather("t", samples).channel_variance, exact, rtol=1e-3)


def test_moments_of_huge_values_do_not_overflow() -> None:
    array = np.array([[[-3e38, 3e38, 3e38]]], np.float32)
    exact = array.astype(np.float64)
    found = gather("t", [array])
    assert found.channel_mean[0] == pytest.approx(exact.mean())
    assert found.channel_variance[0] == pytest.approx(exact.var())


@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 6, 4), 6), ((1, 9), 9), ((5,), 1), ((), 1), ((2, 3, 4, 4), 3)]
)
def test_channels_are_axis_one(shape: tuple[int, ...], channels: int) -> None:
    assert gather("t", arrays(2, shape)).channel_mean.shape == (channels,)


def test_large_tensors_are_counted_block_by_block_to_the_same_result() -> None:
    array = arrays(1, (1, 20, 200, 100))[0]
    assert np.array_equal(gather("t", [array]).histogram, upper_halves(array))


@given(st.integers(1, 4), st.integers(1, 4))
def test_two_passes_add_up_to_one_over_all_samples(first: int, second: int) -> None:
    samples = arrays(first + second)
    assert_same(gather("t", samples[:first]) + gather("t", samples[first:]), gather("t", samples))


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_a_value_that_is_not_finite_is_refused_by_the_tensors_name(value: float, word: str) -> None:
    array = arrays(1)[0]
    array[0, 1, 2, 3] = value
    with pytest.raises(
        StageError, match=f"tensor 'conv_7': {word} on the calibration samples; check"
    ):
        gather("conv_7", [array])


def test_a_tensor_without_values_is_refused() -> None:
    with pytest.raises(StageError, match="tensor 't': no values to calibrate with"):
        gather("t", [])


def test_samples_may_differ_in_size_and_channels_that_differ_count_as_one() -> None:
    samples = [*arrays(2), *arrays(1, (1, 3, 2, 9), seed=1)]
    values = np.concatenate([array.reshape(3, -1) for array in samples], axis=1)
    by_channel = gather("t", samples)
    np.testing.assert_allclose(by_channel.channel_mean, values.mean(axis=1), rtol=1e-5)
    others = [*samples, *arrays(2, (1, 4, 2, 2), seed=2)]
    numbers = np.concatenate([array.reshape(-1) for array in others]).astype(np.float64)
    found = gather("t", others)
    assert np.array_equal(found.histogram, upper_halves(numbers.astype(np.float32)))
    np.testing.assert_allclose(found.channel_mean, [numbers.mean()], rtol=1e-5)
    np.testing.assert_allclose(found.channel_variance, [numbers.var()], rtol=1e-5)
    assert found.channel_maximum.tolist() == [numbers.max()]
    assert_same(gather("t", others[:3]) + gather("t", others[3:]), found)


def test_statistics_come_back_from_a_folder_and_give_the_same_bytes_again(tmp_path: Path) -> None:
    written = Statistics([gather("a", arrays(2)), gather("b", arrays(2, (1, 4), seed=1))])
    written.write(tmp_path / "one")
    read = Statistics.read(tmp_path / "one")
    assert list(read) == ["a", "b"]
    for name in read:
        assert_same(read[name], written[name])
    read.write(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_statistics_without_tensors_come_back_too(tmp_path: Path) -> None:
    Statistics([]).write(tmp_path)
    assert len(Statistics.read(tmp_path)) == 0


def test_statistics_of_two_networks_do_not_add() -> None:
    one, other = Statistics([gather("a", arrays(1))]), Statistics([gather("b", arrays(1))])
    with pytest.raises(StageError, match="statistics: tensor 'a' is in one of the two only"):
        one + other
