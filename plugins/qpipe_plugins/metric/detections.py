"""What metrics of detections share: reading boxes, and mean average precision of matches over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import qpipe
from qpipe.types import Array

# of detections of one label, best first: true and false [T, D] and how many are to be found -> [T]
AveragePrecision = Callable[[Array, Array, int], Array]


class Matches(NamedTuple):
    """One sample's detections of all labels against its ground truth, T thresholds of overlap, D detections."""

    scores: Array  # float64 [D], by label, best first
    labels: Array  # int64 [D]
    true: Array  # bool [T, D]
    false: Array  # bool [T, D]; neither where the match does not count
    truths: Array  # int64, the label of each box to be found


def read_boxes(metric: str, given: Any, what: str, *more: str, flag: str = "") -> dict[str, Array]:
    """Boxes [n, 4], labels, `more` and, where it is there, the flag as arrays; StageError where they do not fit."""
    names = ("boxes", "labels", *more)
    if not isinstance(given, Mapping) or not set(names) <= given.keys():
        there = ", ".join(given) if isinstance(given, Mapping) else type(given).__name__
        raise qpipe.StageError(
            f"metric {metric}: {what} has {there}; it has {', '.join(names)} (set postprocess)"
        )
    boxes = np.asarray(given["boxes"], np.float64).reshape(-1, 4)
    arrays = {name: np.asarray(given[name]) for name in (*names[1:], flag) if name in given}
    for name, array in arrays.items():
        if array.shape != (len(boxes),):
            reason = f"{what} has {len(boxes)} boxes, but {name} is {list(array.shape)}"
            raise qpipe.StageError(f"metric {metric}: {reason}; give one for each box")
    return {**arrays, "boxes": boxes}


def joined(parts: Sequence[Matches], thresholds: int) -> Matches:
    """The labels of one sample in one."""
    if parts:
        return Matches(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))
    none = np.zeros((thresholds, 0), bool)
    return Matches(np.zeros(0), np.zeros(0, np.int64), none, none, np.zeros(0, np.int64))


def mean_average_precision(
    contributions: Sequence[Matches], average_precision: AveragePrecision
) -> float:
    """The mean over thresholds and the labels that there are to be found; 0 where there is nothing to be found."""
    scores, labels, true, false, truths = (
        np.concatenate(p, axis=-1) for p in zip(*contributions, strict=True)
    )
    # stable: of equal scores the earlier sample comes first, as in pycocotools
    order = np.lexsort((-scores, labels))
    labels = labels[order]
    true = true[:, order]
    false = false[:, order]
    found, counts = np.unique(truths, return_counts=True)
    starts = np.searchsorted(labels, found, "left")
    ends = np.searchsorted(labels, found, "right")
    precisions = [
        average_precision(true[:, start:end], false[:, start:end], int(count))
        for start, end, count in zip(starts, ends, counts, strict=True)
    ]
    return float(np.mean(precisions)) if precisions else 0.0


def overlaps(one: Array, other: Array) -> Array:
    """Intersection over union of each box (x1, y1, x2, y2) with each, [len(one), len(other)]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
