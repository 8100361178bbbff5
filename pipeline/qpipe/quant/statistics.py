"""Calibration statistics: what one pass over the samples leaves of each tensor, however many they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array

BINS = 1 << 16  # one for each upper half of a float32 pattern: sign, exponent, 7 bits of mantissa
BLOCK = 1 << 17  # values looked at together: what they need besides stays in the processor's cache
HUGE = 1e12  # above this, squares need more than float32 holds
INDEX = "statistics.json"
ARRAYS = "statistics.npz"
SPARSE = {"bins": "<u2", "counts": "<i8"}
PER_CHANNEL = {
    "channel_mean": "<f8",
    "channel_variance": "<f8",
    "channel_minimum": "<f4",
    "channel_maximum": "<f4",
}
COLUMNS = {**SPARSE, **PER_CHANNEL}


class InfinityError(StageError):
    """A tensor holds infinity on some sample: it has no statistics."""


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """One tensor over all samples; channels are axis 1 (the last axis of a matrix; below two axes there is one).

    The histogram is kept sparse: `bins` are those that are not empty, ascending, `counts` what is in them. Extremes
    are exact; moments are float64, the variance that of the population.
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
        """The statistics of both sets of samples together."""
        tally = Tally.resume(self)
        tally.include(other)
        return tally.statistics()


class Tally:
    """Statistics of one tensor while they grow, array by array."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self._histogram = np.zeros(
            0, np.int64
        )  # as long as the highest bin: a quarter of all after ReLU6
        self._mean = self._squares = np.zeros(0)  # squares: of the distances to the mean, summed
        self._minimum = self._maximum = np.zeros(0, np.float32)

    @classmethod
    def resume(cls, statistics: TensorStatistics) -> Tally:
        """A tally that holds what these statistics tell."""
        tally = cls(statistics.name)
        tally.include(statistics)
        return tally

    def add(self, array: Array) -> None:
        """Take in the tensor's value for one more sample; StageError for NaN, InfinityError for infinity."""
        if array.size == 0:
            return
        values = _by_channel(np.asarray(array, np.float32))
        size = max(1, BLOCK // values.shape[1])
        blocks = [
            self._block(values[first : first + size]) for first in range(0, len(values), size)
        ]
        self._merge(values.size, *(np.concatenate(column) for column in zip(*blocks, strict=True)))

    def _block(self, values: Array) -> tuple[Array, Array, Array, Array]:
        """Count some channels' values; their means, squares around these, minima and maxima."""
        minimum = values.min(axis=1)
        maximum = values.max(axis=1)
        # a NaN goes through min and max
        if not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            is_nan = np.isnan(minimum).any() or np.isnan(maximum).any()
            raise (StageError if is_nan else InfinityError)(
                f"tensor '{self.name}': {'NaN' if is_nan else 'infinity'} on the calibration samples; "
                "check the samples' preprocessing and the weights before it"
            )
        self._count(np.bincount(values.reshape(-1).view(np.uint16)[_UPPER_HALF::2]))
        if max(-minimum.min(), maximum.max()) > HUGE:
            values = values.astype(np.float64)
        mean = values.mean(axis=1)
        away = values - mean[:, np.newaxis]
        squares = np.einsum("cv,cv->c", away, away)
        return mean.astype(np.float64), squares.astype(np.float64), minimum, maximum

    def include(self, other: TensorStatistics) -> None:
        """Take in what another pass gathered; StageError where the channels do not agree."""
        squares = other.channel_variance * (other.count / max(len(other.channel_mean), 1))
        self._merge(
            other.count, other.channel_mean, squares, other.channel_minimum, other.channel_maximum
        )
        self._count(other.histogram)

    def _count(self, counts: Array) -> None:
        if counts.size > self._histogram.size:
            counts, self._histogram = self._histogram, counts
        self._histogram[: counts.size] += counts

    def _merge(
        self, count: int, mean: Array, squares: Array, minimum: Array, maximum: Array
    ) -> None:
        # Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances"
        if self.count == 0:
            self.count = count
            self._mean = mean
            self._squares = squares
            self._minimum = minimum
            self._maximum = maximum
            return
        if mean.shape != self._mean.shape:
            raise StageError(
                f"tensor '{self.name}': {mean.size} channels after {self._mean.size}; samples must have one shape"
            )
        total = self.count + count
        distance = mean - self._mean
        self._mean = self._mean + distance * (count / total)
        self._squares = (
            self._squares + squares + distance**2 * (self.count / total * count / len(mean))
        )
        self._minimum = np.minimum(self._minimum, minimum)
        self._maximum = np.maximum(self._maximum, maximum)
        self.count = total

    def statistics(self) -> TensorStatistics:
        """What was gathered so far; StageError where that is nothing."""
        if self.count == 0:
            raise StageError(
                f"tensor '{self.name}': no values to calibrate with; it is empty on every sample"
            )
        bins = np.flatnonzero(self._histogram)
        return TensorStatistics(
            name=self.name,
            count=self.count,
            minimum=float(self._minimum.min()),
            maximum=float(self._maximum.max()),
            bins=bins.astype(np.uint16),
            counts=self._histogram[bins],
            channel_mean=self._mean,
            channel_variance=self._squares / (self.count / len(self._mean)),
            channel_minimum=self._minimum,
            channel_maximum=self._maximum,
        )


_UPPER_HALF = 1 if sys.byteorder == "little" else 0


def _by_channel(array: Array) -> Array:
    """[C, values], contiguous."""
    if array.ndim < 2:
        return np.ascontiguousarray(array.reshape(1, -1))
    channels = np.moveaxis(array, 1, 0)
    return np.ascontiguousarray(channels).reshape(len(channels), -1)


def gather(name: str, arrays: Iterable[Array]) -> TensorStatistics:
    """The statistics of one tensor from its values."""
    tally = Tally(name)
    for array in arrays:
        tally.add(array)
    return tally.statistics()


class Statistics(Mapping[str, TensorStatistics]):
    """Calibration statistics by tensor name; two of them add up to those of all samples."""

    def __init__(self, tensors: Iterable[TensorStatistics]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics over both sets of samples; StageError unless both are of the same tensors."""
        odd = sorted(set(self) ^ set(other))
        if odd:
            raise StageError(
                f"statistics: tensor '{odd[0]}' is in one of the two only; both must be of one network"
            )
        return Statistics(self[name] + other[name] for name in self)

    def write(self, folder: Path) -> None:
        """Write them into a folder; the same statistics give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = list(self.values())
        entries = [
            {"name": t.name, "count": t.count, "bins": len(t.bins), "channels": len(t.channel_mean)}
            for t in tensors
        ]
        (folder / INDEX).write_text(json.dumps(entries), encoding="utf-8")
        arrays: dict[str, Array] = {
            column: np.concatenate(
                [np.zeros(0), *(getattr(t, column) for t in tensors)], dtype=dtype, casting="unsafe"
            )
            for column, dtype in COLUMNS.items()
        }
        arrays["extremes"] = np.array([(t.minimum, t.maximum) for t in tensors], np.float64)
        np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, folder: Path) -> Statistics:
        """The statistics that `write` left in a folder."""
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        tensors = []
        first_bin = 0
        first_channel = 0
        for entry, (minimum, maximum) in zip(entries, arrays["extremes"], strict=True):
            bins = slice(first_bin, first_bin := first_bin + entry["bins"])
            channels = slice(first_channel, first_channel := first_channel + entry["channels"])
            sparse = (arrays["bins"][bins], arrays["counts"][bins])
            per_channel = (arrays[column][channels] for column in PER_CHANNEL)
            extremes = (float(minimum), float(maximum))
            tensors.append(
                TensorStatistics(entry["name"], entry["count"], *extremes, *sparse, *per_channel)
            )
        return cls(tensors)
