"""From the raw outputs of an SSD head to boxes: default boxes and decoding (Liu et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qpipe.errors import StageError
from qpipe_plugins.postprocess.non_max_suppression import (
    Detections,
    Floats,
    above_threshold,
    suppress,
)
from qpipe_plugins.postprocess.output_choice import choose_output
from qpipe_plugins.postprocess.softmax import probabilities

STRIDES = (8, 16, 32, 64)
SCALES = (0.07, 0.15, 0.3, 0.5, 0.8)
RATIOS = (1.0, 2.0, 0.5)
VARIANCES = (0.1, 0.2)
# exp of an outlier would overflow; no box is e^8 times its default box
MOST_LOG_SIZE = 8
# with more candidates a detection none can reach the best max_detections in practice
CANDIDATES_PER_DETECTION = 4


def default_boxes(
    size: int = 192,
    strides: Sequence[int] = STRIDES,
    scales: Sequence[float] = SCALES,
    ratios: Sequence[float] = RATIOS,
) -> Floats:
    """Return centre x, centre y, width, height in pixels, [N, 4], by stride, then y, x, box.

    The map of stride s has ceil(size / s) cells a side, with centres at (cell + 0.5) * s. Each cell
    has a box for each ratio r, w = scale * size * sqrt(r) and h = scale * size / sqrt(r), then a
    square one of the geometric mean of this scale and the next: `scales` holds one more number than
    `strides`.
    """
    if len(scales) != len(strides) + 1:
        reason = f"{len(scales)} scales for {len(strides)} strides; give {len(strides) + 1}"
        raise StageError(f"postprocess ssd_boxes: {reason}")
    maps = [
        _boxes_of_stride(size, stride, (scale, next_scale), ratios)
        for stride, scale, next_scale in zip(strides, scales, scales[1:], strict=False)
    ]
    return np.concatenate(maps)


def _boxes_of_stride(
    size: int, stride: int, scales: tuple[float, float], ratios: Sequence[float]
) -> Floats:
    """Return the default boxes of one map, [cells * cells * boxes, 4].

    `scales` are its own and that of the next map.
    """
    scale, next_scale = scales
    cells = -(-size // stride)
    roots = np.sqrt(np.array([*ratios, 1.0]))
    sides = np.array([scale] * len(ratios) + [np.sqrt(scale * next_scale)]) * size
    shapes = np.stack([sides * roots, sides / roots], axis=1)
    centres = (np.arange(cells) + 0.5) * stride
    grid = np.empty((cells, cells, len(shapes), 4))
    grid[..., 0] = centres[None, :, None]
    grid[..., 1] = centres[:, None, None]
    grid[..., 2:] = shapes
    return grid.reshape(-1, 4).astype(np.float32)


def decode(offsets: Floats, priors: Floats, variances: tuple[float, float] = VARIANCES) -> Floats:
    """Return x1, y1, x2, y2, [N, 4], from offsets to the default boxes."""
    centre_variance = np.float32(variances[0])
    size_variance = np.float32(variances[1])
    centres = priors[:, :2] + offsets[:, :2] * centre_variance * priors[:, 2:]
    log_sizes = np.minimum(offsets[:, 2:] * size_variance, MOST_LOG_SIZE)
    half_sizes = priors[:, 2:] * np.exp(log_sizes) / 2
    corners = np.concatenate([centres - half_sizes, centres + half_sizes], axis=1)
    return corners.astype(np.float32)


def ssd_boxes(
    outputs: dict[str, Floats],
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
) -> Detections:
    """Detections of an SSD head, best first: boxes in pixels of the input, scores, labels.

    `boxes` and `scores` name the outputs: offsets [1, N, 4] and logits [1, N, classes + 1] with the
    background first; labels are without the background.
    """
    priors = default_boxes(size, strides, scales, ratios)
    offsets = choose_output(outputs, boxes, "ssd_boxes")[1][0]
    logits = choose_output(outputs, scores, "ssd_boxes")[1][0]
    if offsets.shape != priors.shape or len(logits) != len(priors):
        shapes = f"{boxes} is {list(offsets.shape)} and {scores} {list(logits.shape)}"
        priors_count = f"size, strides, scales and ratios give {len(priors)} default boxes"
        raise StageError(f"postprocess ssd_boxes: {shapes}, but {priors_count}")
    corners = np.clip(decode(offsets, priors, variances), 0, size)
    class_scores = probabilities(logits)[:, 1:]
    return suppress(
        above_threshold(corners, class_scores, score_threshold),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        candidates=CANDIDATES_PER_DETECTION * max_detections,
    )
