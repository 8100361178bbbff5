"""Non-maximum suppression of boxes, and the detections that remain."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# boxes compared at a time: all with all takes too much memory, one by one too much time
BLOCK = 512


class Detections(TypedDict):
    """The detections of one sample, best first."""

    boxes: Floats  # [n, 4]: x1, y1, x2, y2 in pixels of the network's input
    scores: Floats  # [n]
    labels: Integers  # [n]


def above_threshold(boxes: Floats, scores: Floats, threshold: float) -> Detections:
    """Return a detection for each score above the threshold, in no order.

    boxes [N, 4]; scores [N, L], one for each label.
    """
    box_indices, labels = np.nonzero(scores > threshold)
    return {
        "boxes": boxes[box_indices],
        "scores": scores[box_indices, labels],
        "labels": labels.astype(np.int64),
    }


def suppress(
    detections: Detections,
    *,
    iou_threshold: float,
    max_detections: int,
    candidates: int,
    by_label: bool = True,
) -> Detections:
    """Return the detections that remain after suppression, best first.

    Only the best `candidates` take part. They are suppressed by detections of their own label, or
    of any label where `by_label` is false.
    """
    best = np.argsort(-detections["scores"], kind="stable")[:candidates]
    boxes = detections["boxes"][best]
    scores = detections["scores"][best]
    labels = detections["labels"][best]
    groups = [np.arange(len(labels))]
    if by_label:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    remaining = [np.empty(0, np.int64)]
    for group in groups:
        indices = non_maximum_suppression(
            boxes[group], scores[group], iou_threshold, max_detections
        )
        remaining.append(group[indices])
    # the candidates are in the order of their scores
    order = np.sort(np.concatenate(remaining))[:max_detections]
    return {"boxes": boxes[order], "scores": scores[order], "labels": labels[order]}


def non_maximum_suppression(
    boxes: Floats, scores: Floats, threshold: float, limit: int | None = None
) -> Integers:
    """Return the indices of the boxes that overlap no better box by more than `threshold`.

    At most `limit`, best first; of equal scores the first box is better.
    """
    order = np.argsort(-scores, kind="stable")
    remaining = np.empty(0, np.int64)
    for start in range(0, len(order), BLOCK):
        if limit is not None and len(remaining) >= limit:
            break
        block = order[start : start + BLOCK]
        shares = intersection_over_union(boxes[remaining], boxes[block])
        block = block[~(shares > threshold).any(axis=0)]
        overlaps = intersection_over_union(boxes[block], boxes[block]) > threshold
        remains = np.ones(len(block), np.bool_)
        for rank in range(len(block)):
            if remains[rank]:
                remains[rank + 1 :] &= ~overlaps[rank, rank + 1 :]
        remaining = np.concatenate([remaining, block[remains]])
    return remaining[:limit]


def intersection_over_union(boxes: Floats, other_boxes: Floats) -> Floats:
    """Return the overlap of each box with each, [n, 4] and [m, 4] -> [n, m].

    A box without area overlaps nothing.
    """
    low = np.maximum(boxes[:, None, :2], other_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], other_boxes[None, :, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = _areas(boxes)[:, None] + _areas(other_boxes)[None, :] - intersection
    result = np.zeros_like(intersection)
    shares: Floats = np.divide(intersection, union, out=result, where=union > 0)
    return shares


def _areas(boxes: Floats) -> Floats:
    areas: Floats = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas
