"""Statistics of what a network is fed, and warnings where they look wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qpipe.report.report_types import ChannelStatistics
from qpipe.report.tensor_pictures import source_values
from qpipe.samples.preprocess import FLOATS
from qpipe.types import Array, Preprocessing

# a float network that was trained on normalised pixels is fed within about -5 to 5
MAX_NORMALISED_SPAN = 20.0
MIN_NORMALISED_STD = 0.05  # the std of normalised pixels is about 0.2 to 1.2


def channel_statistics(
    tensors: Sequence[Array], preprocessing: Preprocessing, *, input_name: str, part: str
) -> list[ChannelStatistics]:
    """Return the statistics of an input over tensors [1, ...] as fed.

    One row for each channel of images, one row over all values of anything else.
    """
    is_image = preprocessing.layout != "none" and all(tensor.ndim == 4 for tensor in tensors)
    if not is_image:
        values = [tensor.reshape(-1) for tensor in tensors]
        return [_statistics(values, input_name=input_name, part=part)]
    axis = 1 if preprocessing.layout == "NCHW" else 3
    channel_count = tensors[0].shape[axis]
    sources = [source_values(tensor, preprocessing) for tensor in tensors]
    rows = []
    for channel in range(channel_count):
        values = [np.take(tensor, channel, axis).reshape(-1) for tensor in tensors]
        row = _statistics(values, input_name=input_name, part=part)
        if channel_count > 1:
            row["channel"] = channel
        row["clipped"] = _clipped_share([source[..., channel] for source in sources])
        rows.append(row)
    return rows


def _statistics(values: Sequence[Array], *, input_name: str, part: str) -> ChannelStatistics:
    """Return the statistics of values; mean, std, min and max are of the finite ones."""
    joined = np.concatenate(values).astype(np.float64)
    finite = joined[np.isfinite(joined)]
    row: ChannelStatistics = {
        "input": input_name,
        "part": part,
        "channel": None,
        "mean": None,
        "std": None,
        "min": None,
        "max": None,
        "not_finite": int(joined.size - finite.size),
        "clipped": None,
    }
    if finite.size:
        row["mean"] = float(finite.mean())
        row["std"] = float(finite.std())
        row["min"] = float(finite.min())
        row["max"] = float(finite.max())
    return row


def _clipped_share(pixels: Sequence[Array]) -> float:
    """Return the share of pixels at 0 or 255."""
    joined = np.concatenate([image.reshape(-1) for image in pixels])
    rounded = np.rint(joined)
    return float(((rounded <= 0) | (rounded >= 255)).mean())


# ---- warnings


@dataclass(frozen=True)
class FiniteStatistics:
    """The statistics of a channel that has finite values."""

    part: str
    channel: int | None
    mean: float
    std: float
    min: float
    max: float


def input_warnings(
    rows: Sequence[ChannelStatistics], preprocessing: Mapping[str, Preprocessing]
) -> list[str]:
    """Return a line for each input whose statistics look wrong.

    Says nothing where a network may well be meant to be fed so.
    """
    lines: list[str] = []
    for name, input_preprocessing in preprocessing.items():
        input_rows = [row for row in rows if row["input"] == name]
        finite_rows = _finite_rows(input_rows)
        reasons = [
            *_warn_of_not_finite(input_rows),
            *_warn_of_constant(finite_rows),
            *_warn_of_range(finite_rows, input_preprocessing),
        ]
        if len(finite_rows) == len(input_rows):
            reasons += _warn_of_unlike_parts(finite_rows)
        lines += [f"{name}: {reason}" for reason in reasons]
    return lines


def _finite_rows(rows: Sequence[ChannelStatistics]) -> list[FiniteStatistics]:
    finite = []
    for row in rows:
        mean = row["mean"]
        std = row["std"]
        low = row["min"]
        high = row["max"]
        if mean is not None and std is not None and low is not None and high is not None:
            statistics = FiniteStatistics(
                part=row["part"], channel=row["channel"], mean=mean, std=std, min=low, max=high
            )
            finite.append(statistics)
    return finite


def _warn_of_not_finite(rows: Sequence[ChannelStatistics]) -> Iterator[str]:
    count = sum(row["not_finite"] for row in rows)
    if count:
        yield f"{count} values are not finite"


def _warn_of_constant(rows: Sequence[FiniteStatistics]) -> Iterator[str]:
    for row in rows:
        if row.min == row.max:
            channel = "" if row.channel is None else f"channel {row.channel} "
            yield f"{channel}is {row.min:g} everywhere in {row.part}"


def _warn_of_range(rows: Sequence[FiniteStatistics], preprocessing: Preprocessing) -> Iterator[str]:
    """Warn where mean and std are hardly those that the network was trained with."""
    all_constant = all(row.min == row.max for row in rows)
    if all_constant or preprocessing.layout == "none" or preprocessing.dtype not in FLOATS:
        return
    mean = float(np.mean([row.mean for row in rows]))
    std = float(np.mean([row.std for row in rows]))
    low = min(row.min for row in rows)
    high = max(row.max for row in rows)
    span = high - low
    numbers = f"mean {mean:.3g}, std {std:.3g}, from {low:.4g} to {high:.4g}"
    if span > MAX_NORMALISED_SPAN:
        yield f"{numbers}: {_wide_range_advice(preprocessing)}"
    elif std < MIN_NORMALISED_STD and span < 2 * MIN_NORMALISED_STD:
        yield (
            f"{numbers}: nearly the same everywhere, as if pixels were scaled twice; "
            "make std smaller"
        )


def _wide_range_advice(preprocessing: Preprocessing) -> str:
    is_centred = any(preprocessing.mean)
    if is_centred and max(preprocessing.mean) <= 1 and max(preprocessing.std) <= 1:
        return (
            "mean and std are for pixels from 0 to 1, but pixels here are from 0 to 255; "
            "multiply both by 255"
        )
    if is_centred:
        return "centred, but not scaled; set std, unless the network is meant to be fed this way"
    return "looks unnormalised; set mean and std, unless the network normalises its input itself"


def _warn_of_unlike_parts(rows: Sequence[FiniteStatistics]) -> Iterator[str]:
    """Warn where calibration is unlike evaluation: the ranges found by it are wrong then."""
    parts = list(dict.fromkeys(row.part for row in rows))
    if len(parts) < 2:
        return
    first_rows = [row for row in rows if row.part == parts[0]]
    second_rows = [row for row in rows if row.part == parts[1]]
    first_means = np.array([row.mean for row in first_rows])
    second_means = np.array([row.mean for row in second_rows])
    first_stds = np.array([row.std for row in first_rows])
    second_stds = np.array([row.std for row in second_rows])
    pooled_stds = np.hypot(first_stds, second_stds) / np.sqrt(2)
    distances = np.abs(first_means - second_means) / np.maximum(pooled_stds, 1e-12)
    if distances.max() > 1:
        yield (
            f"{parts[0]} and {parts[1]} differ: their means, {first_means.mean():.3g} and "
            f"{second_means.mean():.3g}, are further apart than either varies; "
            "draw both from the same data"
        )
