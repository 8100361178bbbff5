"""From the raw outputs of an SSD head to boxes: default boxes and decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import qpipe
from qpipe_plugins.postprocess.non_max_suppression import Detections, Floats, above, suppressed
from qpipe_plugins.postprocess.output_choice import output
from qpipe_plugins.postprocess.softmax import probabilities

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
        reason = f"{len(scales)} scales for {len(strides)} strides; give {len(strides) + 1}"
        raise qpipe.StageError(f"postprocess ssd_boxes: {reason}")
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
    """One sample's detections, best first: boxes in pixels of the input, scores, labels without the background.

    `boxes` and `scores` name the outputs: offsets [1, N, 4] and logits [1, N, classes + 1] with the background first.
    """
    priors = default_boxes(size, strides, scales, ratios)
    offsets, logits = (output(outputs, name, "ssd_boxes")[1][0] for name in (boxes, scores))
    if offsets.shape != priors.shape or len(logits) != len(priors):
        raise qpipe.StageError(
            f"postprocess ssd_boxes: {boxes} is {list(offsets.shape)} and {scores} {list(logits.shape)}, "
            f"but size, strides, scales and ratios give {len(priors)} default boxes"
        )
    corners = np.clip(decode(offsets, priors, variances), 0, size)
    found = above(corners, probabilities(logits)[:, 1:], score_threshold)
    # beyond this many candidates none can reach the best max_detections in practice
    most = 4 * max_detections
    return suppressed(
        found, iou_threshold=iou_threshold, max_detections=max_detections, candidates=most
    )
