"""Mean average precision of detections as COCO defines it; pycocotools matches, numpy accumulates.

Accumulation is reimplemented because an interval repeats it 200 times, which would take
pycocotools longer than the measurement.
"""

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
    read_boxes,
)

RECALLS = np.linspace(0.0, 1.0, 101)
# pycocotools' annotations by (image, label)
Annotations = dict[tuple[int, int], list[dict[str, Any]]]


def coco_map(*, iou: float | Literal["0.50:0.95"] = 0.5) -> qpipe.Metric:
    """COCO's mean average precision at one overlap, or averaged over the overlaps 0.50:0.95.

    Metric map50 for iou 0.5, map for 0.50:0.95. A detection has boxes (x1, y1, x2, y2), scores,
    labels; a target has boxes, labels and, where some are crowds, iscrowd. Boxes of all areas, at
    most 100 detections a label and sample (Lin et al. 2014, arXiv:1405.0312; pycocotools).
    """
    if iou == "0.50:0.95":
        name = "map"
        thresholds = np.linspace(0.5, 0.95, 10)
    else:
        name = f"map{100 * float(iou):g}"
        thresholds = np.array([float(iou)])

    def contribution(prediction: Mapping[str, Array], target: Mapping[str, Any]) -> Matches:
        detections = read_boxes("coco_map", prediction, "a prediction", "scores")
        truth = read_boxes("coco_map", target, "a target", flag="iscrowd")
        return _match(detections, truth, thresholds)

    reduce = partial(mean_average_precision, average_precision=_average_precision)
    return qpipe.Metric(name, contribution, reduce, unit="share", resamples=200)


def _match(
    detections: Mapping[str, Array], truth: Mapping[str, Array], thresholds: Array
) -> Matches:
    """Match the detections of one sample by pycocotools."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.iouThrs = thresholds
    _add_annotations(evaluation._gts, truth)
    _add_annotations(evaluation._dts, detections)
    keys = {*evaluation._gts, *evaluation._dts}
    labels = sorted({label for _, label in keys})
    matches = [_match_label(evaluation, label) for label in labels]
    return join_labels(matches, len(thresholds))


def _match_label(evaluation: Any, label: int) -> Matches:
    all_areas = evaluation.params.areaRng[0]
    most_detections = evaluation.params.maxDets[-1]
    evaluation.ious[0, label] = evaluation.computeIoU(0, label)
    image = evaluation.evaluateImg(0, label, all_areas, most_detections)
    matched = image["dtMatches"] > 0
    counts = ~image["dtIgnore"].astype(bool)
    scores = np.array(image["dtScores"], np.float64)
    truth_count = np.count_nonzero(image["gtIgnore"] == 0)
    return Matches(
        scores,
        np.full(len(scores), label),
        matched & counts,
        ~matched & counts,
        np.full(truth_count, label),
    )


def _add_annotations(annotations: Annotations, boxes: Mapping[str, Array]) -> None:
    """Add boxes in pycocotools' form; ids count from 1, as 0 means no match there."""
    corners = boxes["boxes"]
    sizes = corners[:, 2:] - corners[:, :2]
    crowds = boxes.get("iscrowd", np.zeros(len(corners)))
    scores = boxes.get("scores", crowds)
    rows = zip(
        np.concatenate([corners[:, :2], sizes], axis=1).tolist(),
        boxes["labels"].tolist(),
        scores.tolist(),
        crowds.tolist(),
        strict=True,
    )
    for number, (box, label, score, crowd) in enumerate(rows, start=1):
        annotation = {
            "id": number,
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
            "iscrowd": int(crowd),
            "ignore": int(crowd),
        }
        annotations[0, label].append(annotation)


def _average_precision(true: Array, false: Array, count: int) -> Array:
    """Return the mean precision at 101 recalls, [T].

    Each precision is the highest at its recall or beyond. `count` is the number of boxes.
    """
    true_counts = np.cumsum(true, axis=1, dtype=np.float64)
    false_counts = np.cumsum(false, axis=1, dtype=np.float64)
    precision = true_counts / (false_counts + true_counts + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # a recall that is never reached has precision 0
    padded = np.pad(highest, ((0, 0), (0, 1)))
    recalls = true_counts / count
    places = np.array([np.searchsorted(row, RECALLS, side="left") for row in recalls])
    return np.asarray(np.take_along_axis(padded, places, axis=1).mean(axis=1))
