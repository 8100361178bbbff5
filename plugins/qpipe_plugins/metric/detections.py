"""Detections for metrics: boxes read and checked, mean average precision over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import qpipe
from qpipe.types import Array

# true and false positives of one label, bool [T, D], best first, and its number of boxes -> [T]
AveragePrecision = Callable[[Array, Array, int], Array]


class Matches(NamedTuple):
    """Detections of one sample matched to its ground truth: D detections, T overlap thresholds."""

    scores: Array  # float64 [D], by label, best first
    labels: Array  # int64 [D]
    true: Array  # bool [T, D]
    false: Array  # bool [T, D]; neither is set where the match does not count
    truths: Array  # int64, the label of each box of the ground truth


def read_boxes(
    metric: str, detections: Any, what: str, *more: str, flag: str = ""
) -> dict[str, Array]:
    """Return boxes [n, 4], labels [n], the arrays named in `more`, and the flag where there is one.

    Outputs of a network that selects detections itself may have an axis of 1 more. Raise
    StageError where one is missing, or their lengths differ.
    """
    names = ("boxes", "labels", *more)
    is_map = isinstance(detections, Mapping)
    if not is_map or not set(names) <= detections.keys():
        keys = ", ".join(detections) if is_map else type(detections).__name__
        raise qpipe.StageError(
            f"metric {metric}: {what} has {keys}; it has {', '.join(names)} (set postprocess)"
        )
    boxes = np.asarray(detections["boxes"], np.float64).reshape(-1, 4)
    array_names = [name for name in (*names[1:], flag) if name in detections]
    arrays = {name: np.asarray(detections[name]) for name in array_names}
    for name, array in arrays.items():
        if array.size == len(boxes):
            arrays[name] = array.reshape(-1)
    for name, array in arrays.items():
        if array.shape != (len(boxes),):
            reason = f"{what} has {len(boxes)} boxes, but {name} is {list(array.shape)}"
            raise qpipe.StageError(f"metric {metric}: {reason}; give one for each box")
    return {**arrays, "boxes": boxes}


def join_labels(matches_by_label: Sequence[Matches], thresholds: int) -> Matches:
    """Return the matches of all labels of one sample as one."""
    if matches_by_label:
        columns = zip(*matches_by_label, strict=True)
        return Matches(*(np.concatenate(column, axis=-1) for column in columns))
    no_flags = np.zeros((thresholds, 0), bool)
    no_labels = np.zeros(0, np.int64)
    return Matches(np.zeros(0), no_labels, no_flags, no_flags, no_labels)


def mean_average_precision(
    contributions: Sequence[Matches], average_precision: AveragePrecision
) -> float:
    """Return the mean over thresholds and the labels of the ground truth; 0 without any."""
    columns = zip(*contributions, strict=True)
    scores, labels, true, false, truths = (np.concatenate(column, axis=-1) for column in columns)
    # a stable order: of equal scores the earlier sample comes first, as in pycocotools
    order = np.lexsort((-scores, labels))
    labels = labels[order]
    true = true[:, order]
    false = false[:, order]
    truth_labels, counts = np.unique(truths, return_counts=True)
    starts = np.searchsorted(labels, truth_labels, "left")
    ends = np.searchsorted(labels, truth_labels, "right")
    precisions = [
        average_precision(true[:, start:end], false[:, start:end], int(count))
        for start, end, count in zip(starts, ends, counts, strict=True)
    ]
    return float(np.mean(precisions)) if precisions else 0.0


def overlaps(boxes: Array, other_boxes: Array) -> Array:
    """Return intersection over union of boxes (x1, y1, x2, y2): [n, 4] and [m, 4] -> [n, m]."""
    low = np.maximum(boxes[:, None, :2], other_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], other_boxes[None, :, 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    union = _areas(boxes)[:, None] + _areas(other_boxes)[None, :] - intersection
    result = np.zeros_like(intersection)
    return np.asarray(np.divide(intersection, union, out=result, where=union > 0))


def _areas(boxes: Array) -> Array:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(np.prod(sides, axis=-1))
