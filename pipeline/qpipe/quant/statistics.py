"""Calibration statistics: what one pass over the samples keeps of each tensor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array

BINS = 1 << 16  # one for each upper half of a float32 pattern: sign, exponent, 7 bits of mantissa
BLOCK = 1 << 17  # values counted at once: intermediate arrays stay in the processor's cache
LARGE = 1e12  # above this, squares need more than float32 holds
UPPER_HALF = 1 if sys.byteorder == "little" else 0

# the files of a folder, and the types of their columns
INDEX = "statistics.json"
ARRAYS = "statistics.npz"
PER_BIN = {"bins": "<u2", "counts": "<i8"}
PER_CHANNEL = {
    "channel_mean": "<f8",
    "channel_variance": "<f8",
    "channel_minimum": "<f4",
    "channel_maximum": "<f4",
}
EXTREMES = "extremes"


class InfinityError(StageError):
    """A tensor holds infinity on some sample: it has no statistics."""


class IndexEntry(TypedDict):
    """A tensor in the index of a folder.

    `bins` and `channels` are how many of the columns' rows are its own.
    """

    name: str
    count: int
    bins: int
    channels: int


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """The statistics of one tensor over all samples.

    Channels are axis 1, the last axis of a matrix; there is one below two axes, and where samples
    differ in the size of that axis. The histogram is sparse: `bins` are those that are not empty,
    ascending, `counts` how many values each has. Extremes are exact; moments are float64, the
    variance is that of the population.
    """

    name: str
    count: int
    minimum: float
    maximum: float
    bins: Array = field(repr=False)  # uint16 [K]
    counts: Array = field(repr=False)  # int64 [K]
    channel_mean: Array = field(repr=False)  # float64 [C]
    channel_variance: Array = field(repr=False)  # float64 [C]
    channel_minimum: Array = field(repr=False)  # float32 [C]
    channel_maximum: Array = field(repr=False)  # float32 [C]

    @property
    def histogram(self) -> Array:
        """int64 [65536]: how many values have each upper half of the float32 pattern."""
        dense = np.zeros(BINS, np.int64)
        dense[self.bins] = self.counts
        return dense

    def __add__(self, other: TensorStatistics) -> TensorStatistics:
        """Return the statistics of both sets of samples."""
        accumulator = StatisticsAccumulator(self.name)
        accumulator.include(self)
        accumulator.include(other)
        return accumulator.statistics()


@dataclass(frozen=True, eq=False)
class _Channels:
    """Moments and extremes by channel of `count` values in all channels together."""

    count: int
    mean: Array  # float64 [C]
    squares: Array  # float64 [C]: squared distances to the mean, summed
    minimum: Array  # float32 [C]
    maximum: Array  # float32 [C]

    def as_one(self) -> _Channels:
        """Return the moments and extremes of all channels as those of one."""
        mean = self.mean.mean(keepdims=True)
        between = self.count / len(self.mean) * np.sum((self.mean - mean) ** 2)
        return _Channels(
            self.count,
            mean,
            self.squares.sum(keepdims=True) + between,
            self.minimum.min(keepdims=True),
            self.maximum.max(keepdims=True),
        )


class StatisticsAccumulator:
    """The statistics of one tensor while arrays are added."""

    def __init__(self, name: str) -> None:
        self.name = name
        # as long as the highest bin in use: a quarter of all after ReLU6
        self._histogram = np.zeros(0, np.int64)
        self._channels: _Channels | None = None

    @property
    def count(self) -> int:
        """How many values were added."""
        return self._channels.count if self._channels is not None else 0

    def add(self, array: Array) -> None:
        """Add the tensor's array for one more sample.

        Raise StageError for NaN, InfinityError for infinity.
        """
        if array.size == 0:
            return
        values = _by_channel(np.asarray(array, np.float32))
        channels_per_block = max(1, BLOCK // values.shape[1])
        blocks = []
        for first in range(0, len(values), channels_per_block):
            blocks.append(self._count_block(values[first : first + channels_per_block]))
        columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
        self._merge(_Channels(values.size, *columns))

    def _count_block(self, values: Array) -> tuple[Array, Array, Array, Array]:
        """Count the values [C, N] of some channels.

        Return their means, squares around these, minima and maxima.
        """
        minimum = values.min(axis=1)
        maximum = values.max(axis=1)
        self._check_finite(minimum, maximum)
        upper_halves = values.reshape(-1).view(np.uint16)[UPPER_HALF::2]
        self._add_counts(np.bincount(upper_halves))
        if max(-minimum.min(), maximum.max()) > LARGE:
            values = values.astype(np.float64)
        mean = values.mean(axis=1)
        distance = values - mean[:, np.newaxis]
        squares = np.einsum("cv,cv->c", distance, distance)
        return mean.astype(np.float64), squares.astype(np.float64), minimum, maximum

    def _check_finite(self, minimum: Array, maximum: Array) -> None:
        # a NaN goes through min and max
        if np.isfinite(minimum).all() and np.isfinite(maximum).all():
            return
        fix = "check the samples' preprocessing and the weights before it"
        if np.isnan(minimum).any() or np.isnan(maximum).any():
            raise StageError(f"tensor '{self.name}': NaN on the calibration samples; {fix}")
        raise InfinityError(f"tensor '{self.name}': infinity on the calibration samples; {fix}")

    def include(self, other: TensorStatistics) -> None:
        """Add what another pass gathered."""
        channels = len(other.channel_mean)
        values_per_channel = other.count / max(channels, 1)
        self._merge(
            _Channels(
                other.count,
                other.channel_mean,
                other.channel_variance * values_per_channel,
                other.channel_minimum,
                other.channel_maximum,
            )
        )
        self._add_counts(other.histogram)

    def _add_counts(self, counts: Array) -> None:
        shorter = self._histogram
        longer = counts
        if shorter.size > longer.size:
            shorter = counts
            longer = self._histogram
        longer[: shorter.size] += shorter
        self._histogram = longer

    def _merge(self, added: _Channels) -> None:
        """Combine the moments of two sets of values.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for
        computing sample variances".
        """
        current = self._channels
        if current is None:
            self._channels = added
            return
        if added.mean.shape != current.mean.shape:
            added = added.as_one()
            current = current.as_one()
        count = current.count + added.count
        distance = added.mean - current.mean
        weight = current.count / count * added.count / len(added.mean)
        self._channels = _Channels(
            count,
            current.mean + distance * (added.count / count),
            current.squares + added.squares + distance**2 * weight,
            np.minimum(current.minimum, added.minimum),
            np.maximum(current.maximum, added.maximum),
        )

    def statistics(self) -> TensorStatistics:
        """Return the statistics of all that was added; raise StageError where that is nothing."""
        channels = self._channels
        if channels is None:
            raise StageError(
                f"tensor '{self.name}': no values to calibrate with; it is empty on every sample"
            )
        bins = np.flatnonzero(self._histogram)
        values_per_channel = channels.count / len(channels.mean)
        return TensorStatistics(
            name=self.name,
            count=channels.count,
            minimum=float(channels.minimum.min()),
            maximum=float(channels.maximum.max()),
            bins=bins.astype(np.uint16),
            counts=self._histogram[bins],
            channel_mean=channels.mean,
            channel_variance=channels.squares / values_per_channel,
            channel_minimum=channels.minimum,
            channel_maximum=channels.maximum,
        )


def _by_channel(array: Array) -> Array:
    """Return the array as [channels, values], contiguous."""
    if array.ndim < 2:
        return np.ascontiguousarray(array.reshape(1, -1))
    channels_first = np.moveaxis(array, 1, 0)
    return np.ascontiguousarray(channels_first).reshape(len(channels_first), -1)


def gather(name: str, arrays: Iterable[Array]) -> TensorStatistics:
    """Return the statistics of one tensor from its arrays.

    The errors are those of StatisticsAccumulator.
    """
    accumulator = StatisticsAccumulator(name)
    for array in arrays:
        accumulator.add(array)
    return accumulator.statistics()


class Statistics(Mapping[str, TensorStatistics]):
    """Calibration statistics by tensor name; those of two sets of samples add up."""

    def __init__(self, tensors: Iterable[TensorStatistics]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of samples.

        Raise StageError unless both have the same tensors.
        """
        unmatched = sorted(set(self) ^ set(other))
        if unmatched:
            raise StageError(
                f"statistics: tensor '{unmatched[0]}' is in one of the two only; both must be of "
                "one network"
            )
        return Statistics(self[name] + other[name] for name in self)

    def write(self, folder: Path) -> None:
        """Write them into a folder; the same statistics give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = list(self.values())
        index: list[IndexEntry] = [
            {
                "name": tensor.name,
                "count": tensor.count,
                "bins": len(tensor.bins),
                "channels": len(tensor.channel_mean),
            }
            for tensor in tensors
        ]
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        arrays: dict[str, Array] = {}
        for column, dtype in {**PER_BIN, **PER_CHANNEL}.items():
            parts = [np.zeros(0), *(getattr(tensor, column) for tensor in tensors)]
            arrays[column] = np.concatenate(parts, dtype=dtype, casting="unsafe")
        extremes = [(tensor.minimum, tensor.maximum) for tensor in tensors]
        arrays[EXTREMES] = np.array(extremes, np.float64)
        np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, folder: Path) -> Statistics:
        """Return the statistics that `write` wrote into a folder."""
        index: list[IndexEntry] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        tensors = []
        bin_start = 0
        channel_start = 0
        for entry, (minimum, maximum) in zip(index, arrays[EXTREMES], strict=True):
            bin_stop = bin_start + entry["bins"]
            channel_stop = channel_start + entry["channels"]
            columns = {name: arrays[name][bin_start:bin_stop] for name in PER_BIN}
            for name in PER_CHANNEL:
                columns[name] = arrays[name][channel_start:channel_stop]
            tensors.append(
                TensorStatistics(
                    entry["name"], entry["count"], float(minimum), float(maximum), **columns
                )
            )
            bin_start = bin_stop
            channel_start = channel_stop
        return cls(tensors)
