"""Mean average precision of detections as PASCAL VOC defines it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.detections import (
    Matches,
    joined,
    mean_average_precision,
    overlaps,
    read_boxes,
)

RECALLS = np.arange(11) / 10


def voc_map(*, iou: float = 0.5, points: Literal[11, "all"] = "all") -> qpipe.Metric:
    """PASCAL VOC's mean average precision: over all recalls, as since 2010 (metric voc_map50), or at 11 as before.

    A detection is boxes (x1, y1, x2, y2), scores, labels; a target boxes, labels and, where some are difficult,
    difficult: these need not be found, and finding them does not count. Unlike the devkit's, coordinates are those of
    edges, not of pixels, so that a width is x2 - x1 (Everingham et al. 2010; the devkit's VOCevaldet, VOCap).
    """

    def contribution(prediction: Mapping[str, Array], target: Mapping[str, Any]) -> Matches:
        found = read_boxes("voc_map", prediction, "a prediction", "scores")
        wanted = read_boxes("voc_map", target, "a target", flag="difficult")
        labels = np.unique(np.concatenate([found["labels"], wanted["labels"]]))
        return joined([_matches(found, wanted, label, iou) for label in labels], 1)

    name = f"voc_map{100 * iou:g}" + ("_11" if points == 11 else "")
    average = _at_eleven if points == 11 else _over_all
    return qpipe.Metric(
        name,
        contribution,
        partial(mean_average_precision, average_precision=average),
        unit="share",
        resamples=200,
    )


def _matches(
    found: Mapping[str, Array], wanted: Mapping[str, Array], label: int, iou: float
) -> Matches:
    """A detection is of the box that it overlaps most, and true where it overlaps enough and is the first of it."""
    ours = found["labels"] == label
    theirs = wanted["labels"] == label
    order = np.argsort(-found["scores"][ours], kind="stable")
    scores = found["scores"][ours][order]
    boxes = found["boxes"][ours][order]
    difficult = wanted.get("difficult", np.zeros(len(theirs)))[theirs].astype(bool)
    true = np.zeros(len(boxes), bool)
    false = np.ones(len(boxes), bool)
    seen: set[int] = set()
    if difficult.size and len(boxes):
        shares = overlaps(boxes, wanted["boxes"][theirs])
        for rank, nearest in enumerate(shares.argmax(axis=1).tolist()):
            if shares[rank, nearest] < iou:
                continue
            true[rank] = nearest not in seen and not difficult[nearest]
            false[rank] = nearest in seen  # a difficult box is never seen
            seen |= set() if difficult[nearest] else {nearest}
    truths = np.full(np.count_nonzero(~difficult), label)
    return Matches(
        np.asarray(scores, np.float64), np.full(len(boxes), label), true[None], false[None], truths
    )


def _curve(true: Array, false: Array, count: int) -> tuple[Array, Array]:
    """Recall and precision after each detection, best first."""
    trues = np.cumsum(true[0], dtype=np.float64)
    falses = np.cumsum(false[0], dtype=np.float64)
    return trues / count, trues / np.maximum(trues + falses, np.finfo(np.float64).eps)


def _over_all(true: Array, false: Array, count: int) -> Array:
    """The area below precision, each the highest at this recall or beyond."""
    recall, precision = _curve(true, false, count)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return np.array([np.sum(np.diff(recall, prepend=0.0) * highest)])


def _at_eleven(true: Array, false: Array, count: int) -> Array:
    """The mean of the highest precision at or beyond the recalls 0, 0.1 ... 1."""
    recall, precision = _curve(true, false, count)
    return np.array([np.mean([precision[recall >= least].max(initial=0.0) for least in RECALLS])])
