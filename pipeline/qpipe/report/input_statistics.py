"""Statistics of what a network is fed, and what in them looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qpipe.report.tensor_pictures import source
from qpipe.types import Array, Preprocessing

Row = dict[str, Any]

WIDE = 20.0  # a float network that is trained on normalised pixels is fed within about -5 to 5
FLAT = 0.05  # the std of normalised pixels is about 0.2 to 1.2


def rows(name: str, part: str, fed: Sequence[Array], how: Preprocessing) -> list[Row]:
    """Of an input's tensors [1, ...] a row for each channel of an image, one for all values of anything else.

    `clipped` is the share of pixels at 0 or 255, None for what is no image.
    """
    image = how.layout != "none" and all(tensor.ndim == 4 for tensor in fed)
    axis = (1 if how.layout == "NCHW" else 3) if image else None
    count = fed[0].shape[axis] if axis is not None else 1
    found = []
    for channel in range(count):
        own = [t if axis is None else np.take(t, channel, axis) for t in fed]
        values = np.concatenate([each.reshape(-1) for each in own]).astype(np.float64)
        clipped = _clipped([source(tensor, how)[..., channel] for tensor in fed]) if image else None
        label = channel if image and count > 1 else None
        found.append(
            {"input": name, "part": part, "channel": label, **_numbers(values), "clipped": clipped}
        )
    return found


def _numbers(values: Array) -> Row:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"mean": None, "std": None, "min": None, "max": None, "not_finite": int(values.size)}
    return {
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": float(finite.min()),
        "max": float(finite.max()),
        "not_finite": int(values.size - finite.size),
    }


def _clipped(pixels: Sequence[Array]) -> float:
    values = np.rint(np.concatenate([each.reshape(-1) for each in pixels]))
    return float(((values <= 0) | (values >= 255)).mean())


def warnings(found: Sequence[Row], preprocessing: Mapping[str, Preprocessing]) -> list[str]:
    """A line for each input that looks wrong; silent where a network might well want it so."""
    lines: list[str] = []
    for name, how in preprocessing.items():
        own = [row for row in found if row["input"] == name]
        lines += [f"{name}: {reason}" for reason in (*_alone(own, how), *_between(own))]
    return lines


def _alone(own: Sequence[Row], how: Preprocessing) -> Iterator[str]:
    if broken := sum(row["not_finite"] for row in own):
        yield f"{broken} values are not finite"
    own = [row for row in own if row["mean"] is not None]
    constant = [row for row in own if row["min"] == row["max"]]
    for row in constant:
        channel = "" if row["channel"] is None else f"channel {row['channel']} "
        yield f"{channel}is {row['min']:g} everywhere in {row['part']}"
    if len(constant) == len(own) or how.layout == "none" or how.dtype != "float32":
        return
    mean, std = (float(np.mean([row[key] for row in own])) for key in ("mean", "std"))
    low = min(row["min"] for row in own)
    high = max(row["max"] for row in own)
    told = f"mean {mean:.3g}, std {std:.3g}, from {low:.4g} to {high:.4g}"
    if high - low > WIDE:
        yield f"{told}: {_wide(how)}"
    elif std < FLAT and high - low < 2 * FLAT:
        yield f"{told}: nearly the same everywhere, as of pixels scaled twice; make std smaller"


def _wide(how: Preprocessing) -> str:
    if any(how.mean) and max(how.mean) <= 1 and max(how.std) <= 1:
        return "mean and std are of pixels from 0 to 1, pixels here go from 0 to 255; multiply both by 255"
    if any(how.mean):
        return "centred, but not scaled; set std, unless the network is meant to be fed so"
    return "this looks unnormalised; set mean and std, unless the network normalises by itself"


def _between(own: Sequence[Row]) -> Iterator[str]:
    """Calibration that is unlike evaluation gives wrong ranges."""
    parts = list(dict.fromkeys(row["part"] for row in own))
    if len(parts) < 2 or any(row["mean"] is None for row in own):
        return
    means, stds = (
        [np.array([r[key] for r in own if r["part"] == part]) for part in parts]
        for key in ("mean", "std")
    )
    apart = np.abs(means[0] - means[1]) / np.maximum(np.hypot(*stds) / np.sqrt(2), 1e-12)
    if apart.max() > 1:
        yield (
            f"{parts[0]} and {parts[1]} differ: means {means[0].mean():.3g} and {means[1].mean():.3g}, further apart "
            "than either varies; draw both from the same data"
        )
