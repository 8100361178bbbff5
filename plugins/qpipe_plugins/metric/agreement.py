"""How often a quantized network answers as the float network does, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array

Prediction = Mapping[str, Array] | Array


def agreement(*, iou: float = 0.5, score: float = 0.5) -> qpipe.Metric:
    """Share of answers that are those of float: the highest score of the first output, or, of detections, the boxes.

    Detections (boxes, scores, labels) of at least `score` agree one to one where labels are equal and boxes overlap by
    at least `iou`; the share of a sample is what agrees over what either network found, 1 where both found nothing.
    """

    def contribution(prediction: Prediction, reference: Prediction) -> float:
        if isinstance(prediction, Mapping) and isinstance(reference, Mapping) and _detects(prediction):
            return _shared(_confident(prediction, score), _confident(reference, score), iou)
        return float(_answer(prediction) == _answer(reference))

    return qpipe.Metric("agreement", contribution, lambda contributions: float(np.mean(contributions)), against="float")


def _detects(prediction: Mapping[str, Any]) -> bool:
    return {"boxes", "scores", "labels"} <= prediction.keys()


def _answer(prediction: Prediction) -> int:
    array = np.asarray(next(iter(prediction.values())) if isinstance(prediction, Mapping) else prediction)
    return -1 if np.isnan(array).any() else int(np.argmax(array))


def _confident(detections: Mapping[str, Array], score: float) -> tuple[Array, Array]:
    """Boxes and labels, best first."""
    scores = np.asarray(detections["scores"])
    kept = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= score)]
    return np.asarray(detections["boxes"], np.float64).reshape(-1, 4)[kept], np.asarray(detections["labels"])[kept]


def _shared(one: tuple[Array, Array], other: tuple[Array, Array], iou: float) -> float:
    found = len(one[0]), len(other[0])
    if not any(found):
        return 1.0
    overlaps = np.where(one[1][:, None] == other[1][None, :], _overlaps(one[0], other[0]), 0.0)
    matched = 0
    while overlaps.size and (best := overlaps.max()) >= iou and best > 0:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = 0.0
        matched += 1
    return matched / (sum(found) - matched)


def _overlaps(one: Array, other: Array) -> Array:
    """Intersection over union of each box (x1, y1, x2, y2) with each, [len(one), len(other)]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
