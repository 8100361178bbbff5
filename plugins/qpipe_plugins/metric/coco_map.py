"""Mean average precision of detections as COCO defines it; pycocotools matches, numpy accumulates.

Accumulation is its own because an interval repeats it 200 times, which takes pycocotools longer than measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.detections import Matches, joined, mean_average_precision, read_boxes

RECALLS = np.linspace(0.0, 1.0, 101)


def coco_map(*, iou: float | Literal["0.50:0.95"] = 0.5) -> qpipe.Metric:
    """COCO's mean average precision at one overlap (iou 0.5: metric map50), or averaged over 0.50:0.95 (metric map).

    A detection is boxes (x1, y1, x2, y2), scores, labels; a target boxes, labels and, where some are crowds, iscrowd.
    Boxes of all areas, 100 detections a label and sample (Lin et al. 2014, arXiv 1405.0312; pycocotools).
    """
    if iou == "0.50:0.95":
        name = "map"
        thresholds = np.linspace(0.5, 0.95, 10)
    else:
        name = f"map{100 * float(iou):g}"
        thresholds = np.array([float(iou)])

    def contribution(prediction: Mapping[str, Array], target: Mapping[str, Any]) -> Matches:
        found = read_boxes("coco_map", prediction, "a prediction", "scores")
        wanted = read_boxes("coco_map", target, "a target", flag="iscrowd")
        return _matches(found, wanted, thresholds)

    reduce = partial(mean_average_precision, average_precision=_average_precision)
    return qpipe.Metric(name, contribution, reduce, unit="share", resamples=200)


def _matches(found: Mapping[str, Array], wanted: Mapping[str, Array], thresholds: Array) -> Matches:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.iouThrs = thresholds
    limit = evaluation.params.maxDets[-1]
    everything = evaluation.params.areaRng[0]
    _fill(evaluation._gts, wanted)
    _fill(evaluation._dts, found)
    parts = []
    for label in sorted({label for _, label in (*evaluation._gts, *evaluation._dts)}):
        evaluation.ious[0, label] = evaluation.computeIoU(0, label)
        image = evaluation.evaluateImg(0, label, everything, limit)
        matched = image["dtMatches"] > 0
        ignored = image["dtIgnore"].astype(bool)
        scores = np.array(image["dtScores"], np.float64)
        counted = np.count_nonzero(image["gtIgnore"] == 0)
        labels = np.full(len(scores), label), np.full(counted, label)
        parts.append(Matches(scores, labels[0], matched & ~ignored, ~matched & ~ignored, labels[1]))
    return joined(parts, len(thresholds))


def _fill(shelf: dict[tuple[int, int], list[dict[str, Any]]], boxes: Mapping[str, Array]) -> None:
    """Annotations as pycocotools has them, by (image, label); ids from 1, for 0 means no match."""
    crowds = boxes.get("iscrowd", np.zeros(len(boxes["boxes"])))
    scores = boxes.get("scores", crowds)
    corners = boxes["boxes"]
    sized = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    rows = zip(
        sized.tolist(), boxes["labels"].tolist(), scores.tolist(), crowds.tolist(), strict=True
    )
    for number, (box, label, score, crowd) in enumerate(rows, start=1):
        shelf[0, label].append(
            {
                "id": number,
                "bbox": box,
                "area": box[2] * box[3],
                "score": score,
                "iscrowd": int(crowd),
                "ignore": int(crowd),
            }
        )


def _average_precision(true: Array, false: Array, count: int) -> Array:
    """Precision at 101 recalls, each the highest at this recall or beyond: their mean, [T]; `count` is to be found."""
    trues = np.cumsum(true, axis=1, dtype=np.float64)
    precision = trues / (np.cumsum(false, axis=1, dtype=np.float64) + trues + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(highest, ((0, 0), (0, 1)))  # a recall that is never reached has precision 0
    places = [np.searchsorted(row, RECALLS, side="left") for row in trues / count]
    return np.asarray(np.take_along_axis(padded, np.array(places), axis=1).mean(axis=1))
