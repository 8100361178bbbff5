"""Mean average precision of detections as COCO defines it; pycocotools matches, numpy accumulates.

Accumulation is its own because an interval repeats it 200 times, which takes pycocotools longer than measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

import qpipe
from qpipe.types import Array

RECALLS = np.linspace(0.0, 1.0, 101)


class Matches(NamedTuple):
    """One sample's detections of all labels against its ground truth, T thresholds of overlap, D detections."""

    scores: Array  # float64 [D], by label, best first
    labels: Array  # int64 [D]
    true: Array  # bool [T, D]
    false: Array  # bool [T, D]; neither where the match is a crowd
    truths: Array  # int64, the label of each box to be found


def coco_map(*, iou: float | Literal["0.50:0.95"] = 0.5) -> qpipe.Metric:
    """COCO's mean average precision at one overlap (iou 0.5: metric map50), or averaged over 0.50:0.95 (metric map).

    A detection is boxes (x1, y1, x2, y2), scores, labels; a target boxes, labels and, where some are crowds, iscrowd.
    Boxes of all areas, 100 detections a label and sample (Lin et al. 2014, arXiv 1405.0312; pycocotools).
    """
    if iou == "0.50:0.95":
        name, thresholds = "map", np.linspace(0.5, 0.95, 10)
    else:
        name, thresholds = f"map{100 * float(iou):g}", np.array([float(iou)])

    def contribution(prediction: Mapping[str, Array], target: Mapping[str, Any]) -> Matches:
        found = _boxes(prediction, "a prediction", "scores")
        wanted = _boxes(target, "a target")
        return _matches(found, wanted, thresholds)

    return qpipe.Metric(name, contribution, _mean_average_precision, resamples=200)


def _boxes(given: Any, what: str, *more: str) -> dict[str, Array]:
    """As arrays, boxes as x, y, width, height."""
    names = ("boxes", "labels", *more)
    if not isinstance(given, Mapping) or not set(names) <= given.keys():
        there = ", ".join(given) if isinstance(given, Mapping) else type(given).__name__
        raise qpipe.StageError(f"metric coco_map: {what} has {there}; it has {', '.join(names)} (set postprocess)")
    boxes = np.asarray(given["boxes"], np.float64).reshape(-1, 4)
    arrays = {name: np.asarray(given[name]) for name in (*names[1:], *("iscrowd",) * ("iscrowd" in given))}
    for name, array in arrays.items():
        if array.shape != (len(boxes),):
            raise qpipe.StageError(f"metric coco_map: {what} has {len(boxes)} boxes, but {name} is {list(array.shape)}")
    return {**arrays, "boxes": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)}


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
        matched, ignored = image["dtMatches"] > 0, image["dtIgnore"].astype(bool)
        scores, counted = np.array(image["dtScores"], np.float64), np.count_nonzero(image["gtIgnore"] == 0)
        labels = np.full(len(scores), label), np.full(counted, label)
        parts.append((scores, labels[0], matched & ~ignored, ~matched & ~ignored, labels[1]))
    if not parts:
        none = np.zeros((len(thresholds), 0), bool)
        return Matches(np.zeros(0), np.zeros(0, np.int64), none, none, np.zeros(0, np.int64))
    return Matches(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def _fill(shelf: dict[tuple[int, int], list[dict[str, Any]]], boxes: Mapping[str, Array]) -> None:
    """Annotations as pycocotools has them, by (image, label); ids from 1, for 0 means no match."""
    crowds = boxes.get("iscrowd", np.zeros(len(boxes["boxes"])))
    scores = boxes.get("scores", crowds)
    rows = zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), scores.tolist(), crowds.tolist(), strict=True)
    for number, (box, label, score, crowd) in enumerate(rows, start=1):
        shelf[0, label].append({
            "id": number, "bbox": box, "area": box[2] * box[3], "score": score,
            "iscrowd": int(crowd), "ignore": int(crowd),
        })  # fmt: skip


def _mean_average_precision(contributions: Sequence[Matches]) -> float:
    """The mean over thresholds and the labels that there are to be found; 0 where there is nothing to be found."""
    scores, labels, true, false, truths = (np.concatenate(p, axis=-1) for p in zip(*contributions, strict=True))
    # stable: of equal scores the earlier sample comes first, as in pycocotools
    order = np.lexsort((-scores, labels))
    labels, true, false = labels[order], true[:, order], false[:, order]
    found, counts = np.unique(truths, return_counts=True)
    starts, ends = np.searchsorted(labels, found, "left"), np.searchsorted(labels, found, "right")
    precisions = [
        _average_precision(true[:, start:end], false[:, start:end], int(count))
        for start, end, count in zip(starts, ends, counts, strict=True)
    ]
    return float(np.mean(precisions)) if precisions else 0.0


def _average_precision(true: Array, false: Array, count: int) -> Array:
    """Precision at 101 recalls, each the highest at this recall or beyond: their mean, [T]; `count` is to be found."""
    trues = np.cumsum(true, axis=1, dtype=np.float64)
    precision = trues / (np.cumsum(false, axis=1, dtype=np.float64) + trues + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(highest, ((0, 0), (0, 1)))  # a recall that is never reached has precision 0
    places = [np.searchsorted(row, RECALLS, side="left") for row in trues / count]
    return np.asarray(np.take_along_axis(padded, np.array(places), axis=1).mean(axis=1))
