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
    join_labels,
    mean_average_precision,
    overlaps,
    read_boxes,
)

ELEVEN_RECALLS = np.arange(11) / 10


def voc_map(*, iou: float = 0.5, points: Literal[11, "all"] = "all") -> qpipe.Metric:
    """PASCAL VOC's mean average precision: over all recalls, as since 2010, or at 11 as before.

    Metrics voc_map50, voc_map50_11. A detection has boxes (x1, y1, x2, y2), scores, labels; a
    target has boxes, labels and, where some are difficult, `difficult`: these need not be detected,
    and detecting them does not count. Unlike in the devkit, coordinates are those of edges, not of
    pixels, so that a width is x2 - x1 (Everingham et al. 2010; the devkit's VOCevaldet, VOCap).
    """

    def contribution(prediction: Mapping[str, Array], target: Mapping[str, Any]) -> Matches:
        detections = read_boxes("voc_map", prediction, "a prediction", "scores")
        truth = read_boxes("voc_map", target, "a target", flag="difficult")
        labels = np.unique(np.concatenate([detections["labels"], truth["labels"]]))
        matches = [_match_label(detections, truth, label, iou) for label in labels]
        return join_labels(matches, thresholds=1)

    name = f"voc_map{100 * iou:g}"
    average_precision = _area_under_curve
    if points == 11:
        name += "_11"
        average_precision = _mean_at_eleven_recalls
    reduce = partial(mean_average_precision, average_precision=average_precision)
    return qpipe.Metric(name, contribution, reduce, unit="share", resamples=200)


def _match_label(
    detections: Mapping[str, Array], truth: Mapping[str, Array], label: int, iou: float
) -> Matches:
    """Match each detection of a label to the box it overlaps most.

    It is true where the overlap is at least `iou` and it is the first detection of that box.
    """
    is_label = detections["labels"] == label
    is_truth = truth["labels"] == label
    order = np.argsort(-detections["scores"][is_label], kind="stable")
    scores = detections["scores"][is_label][order]
    boxes = detections["boxes"][is_label][order]
    difficult = truth.get("difficult", np.zeros(len(is_truth)))[is_truth].astype(bool)
    true = np.zeros(len(boxes), bool)
    false = np.ones(len(boxes), bool)
    if difficult.size and len(boxes):
        shares = overlaps(boxes, truth["boxes"][is_truth])
        matched: set[int] = set()
        for rank, nearest in enumerate(shares.argmax(axis=1).tolist()):
            if shares[rank, nearest] < iou:
                continue
            if difficult[nearest]:
                false[rank] = False
                continue
            true[rank] = nearest not in matched
            false[rank] = nearest in matched
            matched.add(nearest)
    return Matches(
        np.asarray(scores, np.float64),
        np.full(len(boxes), label),
        true[None],
        false[None],
        np.full(np.count_nonzero(~difficult), label),
    )


def _recall_and_precision(true: Array, false: Array, count: int) -> tuple[Array, Array]:
    """Return recall and precision after each detection, best first."""
    true_counts = np.cumsum(true[0], dtype=np.float64)
    false_counts = np.cumsum(false[0], dtype=np.float64)
    positives = np.maximum(true_counts + false_counts, np.finfo(np.float64).eps)
    return true_counts / count, true_counts / positives


def _area_under_curve(true: Array, false: Array, count: int) -> Array:
    """Return the area under the precision, each the highest at its recall or beyond."""
    recall, precision = _recall_and_precision(true, false, count)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    widths = np.diff(recall, prepend=0.0)
    return np.array([np.sum(widths * highest)])


def _mean_at_eleven_recalls(true: Array, false: Array, count: int) -> Array:
    """Return the mean of the highest precision at or beyond the recalls 0, 0.1 ... 1."""
    recall, precision = _recall_and_precision(true, false, count)
    highest = [precision[recall >= least].max(initial=0.0) for least in ELEVEN_RECALLS]
    return np.array([np.mean(highest)])
