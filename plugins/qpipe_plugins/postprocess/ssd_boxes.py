"""From the raw outputs of an SSD head to boxes: default boxes, decoding, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRIDES = (8, 16, 32, 64)
SCALES = (0.07, 0.15, 0.3, 0.5, 0.8)
RATIOS = (1.0, 2.0, 0.5)
VARIANCES = (0.1, 0.2)


def default_boxes(
    size: int = 192,
    strides: Sequence[int] = STRIDES,
    scales: Sequence[float] = SCALES,
    ratios: Sequence[float] = RATIOS,
) -> Floats:
    """Centre x, centre y, width, height in pixels, [N, 4], ordered by stride, then y, then x, then box.

    The map of stride s has ceil(size / s) cells a side, with centres at (cell + 0.5) * s. Each cell has a box for each
    ratio r, w = scale * size * sqrt(r) and h = scale * size / sqrt(r), then a square one of the geometric mean of this
    scale and the next: `scales` holds one more number than `strides`.
    """
    if len(scales) != len(strides) + 1:
        raise ValueError(f"ssd boxes: {len(scales)} scales for {len(strides)} strides; give {len(strides) + 1}")
    maps = []
    for stride, scale, following in zip(strides, scales, scales[1:], strict=False):
        cells = -(-size // stride)
        roots = np.sqrt(np.array([*ratios, 1.0]))
        sides = np.array([scale] * len(ratios) + [np.sqrt(scale * following)]) * size
        shapes = np.stack([sides * roots, sides / roots], axis=1)
        centres = (np.arange(cells) + 0.5) * stride
        grid = np.empty((cells, cells, len(shapes), 4))
        grid[..., 0] = centres[None, :, None]
        grid[..., 1] = centres[:, None, None]
        grid[..., 2:] = shapes
        maps.append(grid.reshape(-1, 4))
    return np.concatenate(maps).astype(np.float32)


def decode(offsets: Floats, priors: Floats, variances: tuple[float, float] = VARIANCES) -> Floats:
    """Offsets from the default boxes, [N, 4], to x1, y1, x2, y2."""
    centre = priors[:, :2] + offsets[:, :2] * np.float32(variances[0]) * priors[:, 2:]
    # exp of an outlier would overflow; no box is e^8 times its default box
    half = priors[:, 2:] * np.exp(np.minimum(offsets[:, 2:] * np.float32(variances[1]), 8)) / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def non_maximum_suppression(boxes: Floats, scores: Floats, threshold: float) -> NDArray[np.int64]:
    """The boxes that overlap no better one by more than `threshold`, best first; of equals the first wins."""
    order = np.argsort(-scores, kind="stable")
    overlaps = intersection_over_union(boxes[order]) > threshold
    alive = np.ones(len(order), np.bool_)
    for rank in range(len(order)):
        if alive[rank]:
            alive[rank + 1 :] &= ~overlaps[rank, rank + 1 :]
    return order[alive].astype(np.int64)


def intersection_over_union(boxes: Floats) -> Floats:
    """Of each box with each, [n, n]; a box without area overlaps nothing."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    areas = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    union = areas[:, None] + areas[None, :] - shared
    shares: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def ssd_boxes(
    outputs: dict[str, NDArray[np.float32]],
    *,
    size: int = 192,
    strides: Sequence[int] = STRIDES,
    scales: Sequence[float] = SCALES,
    ratios: Sequence[float] = RATIOS,
    variances: tuple[float, float] = VARIANCES,
    score_threshold: float = 0.01,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    boxes: str = "boxes",
    scores: str = "scores",
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """One sample's detections, best first: boxes in pixels of the input, scores, labels without the background.

    `boxes` and `scores` name the outputs: offsets [1, N, 4] and logits [1, N, classes + 1] with the background first.
    """
    priors = default_boxes(size, strides, scales, ratios)
    offsets, logits = outputs[boxes][0], outputs[scores][0]
    if offsets.shape != priors.shape or len(logits) != len(priors):
        raise ValueError(
            f"ssd boxes: {boxes} is {list(offsets.shape)} and {scores} {list(logits.shape)}, "
            f"but size, strides, scales and ratios give {len(priors)} default boxes"
        )
    probability = softmax(logits)[:, 1:]
    place, label = np.nonzero(probability > score_threshold)
    confidence = probability[place, label]
    # beyond this many candidates none can reach the best max_detections in practice
    best = np.argsort(-confidence, kind="stable")[: 4 * max_detections]
    place, label, confidence = place[best], label[best], confidence[best]
    corners = np.clip(decode(offsets[place], priors[place], variances), 0, size)
    kept = np.empty(0, np.int64)
    for each in np.unique(label):
        members = np.flatnonzero(label == each)
        survivors = non_maximum_suppression(corners[members], confidence[members], iou_threshold)
        kept = np.concatenate([kept, members[survivors]])
    kept = np.sort(kept)[:max_detections]  # the candidates are in order of their confidence
    return {"boxes": corners[kept], "scores": confidence[kept], "labels": label[kept].astype(np.int64)}
