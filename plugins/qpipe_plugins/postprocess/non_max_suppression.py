"""What box decoders share: overlaps, non-maximum suppression, and the detections that are left."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

AT_ONCE = 512  # boxes are compared in blocks: all with all is too much memory, one by one too slow


class Detections(TypedDict):
    """One sample's detections, best first."""

    boxes: Floats  # [n, 4]: x1, y1, x2, y2 in pixels of the network's input
    scores: Floats  # [n]
    labels: Integers  # [n]


def above(boxes: Floats, scores: Floats, threshold: float) -> Detections:
    """Each label of boxes [N, 4] whose score, [N, L], is above the threshold; in no order."""
    place, label = np.nonzero(scores > threshold)
    return {"boxes": boxes[place], "scores": scores[place, label], "labels": label.astype(np.int64)}


def suppressed(
    found: Detections,
    *,
    iou_threshold: float,
    max_detections: int,
    candidates: int,
    by_label: bool = True,
) -> Detections:
    """The best `candidates` suppress one another, among their label alone unless `by_label` is false."""
    best = np.argsort(-found["scores"], kind="stable")[:candidates]
    boxes = found["boxes"][best]
    scores = found["scores"][best]
    labels = found["labels"][best]
    groups = (
        [np.flatnonzero(labels == each) for each in np.unique(labels)]
        if by_label
        else [np.arange(len(labels))]
    )
    kept = [
        members[
            non_maximum_suppression(boxes[members], scores[members], iou_threshold, max_detections)
        ]
        for members in groups
    ]
    # the candidates are in order of their scores
    order = np.sort(np.concatenate(kept))[:max_detections] if kept else np.empty(0, np.int64)
    return {"boxes": boxes[order], "scores": scores[order], "labels": labels[order]}


def non_maximum_suppression(
    boxes: Floats, scores: Floats, threshold: float, limit: int | None = None
) -> Integers:
    """The first `limit` boxes that overlap no better one by more than `threshold`, best first; of equals the first."""
    order = np.argsort(-scores, kind="stable")
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), AT_ONCE):
        if limit is not None and len(kept) >= limit:
            break
        part = order[start : start + AT_ONCE]
        part = part[~(intersection_over_union(boxes[kept], boxes[part]) > threshold).any(axis=0)]
        overlaps = intersection_over_union(boxes[part], boxes[part]) > threshold
        alive = np.ones(len(part), np.bool_)
        for rank in range(len(part)):
            if alive[rank]:
                alive[rank + 1 :] &= ~overlaps[rank, rank + 1 :]
        kept = np.concatenate([kept, part[alive]])
    return kept[:limit]


def intersection_over_union(ones: Floats, others: Floats) -> Floats:
    """Of each box with each, [ones, others]; a box without area overlaps nothing."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [
        np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (ones, others)
    ]
    union = areas[0][:, None] + areas[1][None, :] - shared
    shares: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares
