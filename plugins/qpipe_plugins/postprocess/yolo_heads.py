"""From the raw heads of an anchor-based YOLO network, one output for each stride, to boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qpipe.errors import StageError
from qpipe_plugins.postprocess.non_max_suppression import Floats

if TYPE_CHECKING:
    from qpipe.types import Array

MOST_LOGIT = 60  # a larger one has a sigmoid of 1 in float32
# exp of an outlier would overflow; no box is e^8 times its anchor
MOST_LOG_SIZE = 8


def decode_raw_heads(
    outputs: Mapping[str, Array],
    anchors: Sequence[Sequence[float]],
    strides: Sequence[int],
    version: str,
) -> tuple[Floats, Floats]:
    """Return boxes [N, 4] (centre x, centre y, width, height in pixels) and scores [N, C].

    They are of all heads, the finest first. Outputs may come in any order: the one with most cells
    has the smallest stride. Anchors are pairs of width and height in pixels, a list for each stride
    (Redmon & Farhadi 2018, arXiv:1804.02767; github.com/ultralytics/yolov5).
    """
    _check(outputs, anchors, strides, version)
    by_stride = sorted(zip(strides, anchors, strict=True), key=lambda pair: pair[0])
    heads = sorted(outputs.items(), key=lambda head: -math.prod(head[1].shape[2:4]))
    boxes: list[Floats] = []
    scores: list[Floats] = []
    for (name, array), (stride, flat_anchors) in zip(heads, by_stride, strict=True):
        anchor_sizes = np.array(flat_anchors, np.float32).reshape(-1, 2)
        logits = _logits_by_anchor(name, array, len(anchor_sizes))
        head_boxes, head_scores = _decode_head(logits, anchor_sizes, stride, is_v3=version == "v3")
        boxes.append(head_boxes)
        scores.append(head_scores)
    return np.concatenate(boxes), np.concatenate(scores)


def _check(
    outputs: Mapping[str, Array],
    anchors: Sequence[Sequence[float]],
    strides: Sequence[int],
    version: str,
) -> None:
    if version not in ("auto", "v3", "v5"):
        fix = "leave them out, or set version v5 or v3"
        raise _error(f"anchors are not for version {version}; {fix}")
    if not len(anchors) == len(strides) == len(outputs):
        counts = f"{len(outputs)} outputs, anchors for {len(anchors)} and {len(strides)} strides"
        raise _error(f"{counts}; give a list of anchors and a stride for each output")
    if any(not of_stride or len(of_stride) % 2 for of_stride in anchors):
        raise _error("anchors are pairs; give w, h, w, h ... for each stride")


def _logits_by_anchor(name: str, array: Array, anchors: int) -> Floats:
    """Return a head's output as [anchors, H, W, 5 + C]."""
    if array.ndim == 4 and array.shape[1] % anchors == 0:
        by_anchor = array.reshape(anchors, -1, *array.shape[2:])
        array = np.moveaxis(by_anchor, 1, -1)[None]
    if array.ndim != 5 or array.shape[1] != anchors or array.shape[-1] < 6:
        layouts = (
            f"[1, {anchors} * (5 + classes), height, width] or "
            f"[1, {anchors}, height, width, 5 + classes]"
        )
        reason = f"output '{name}' is {list(array.shape)}"
        raise _error(f"{reason}; a head of {anchors} anchors is {layouts}")
    return np.asarray(array[0], np.float32)


def _decode_head(
    logits: Floats, anchors: Floats, stride: int, *, is_v3: bool
) -> tuple[Floats, Floats]:
    """Return boxes and scores of one head.

    With t a logit and s its sigmoid, width and height are those of the anchor times (2 s)^2, in v3
    times e^t.
    """
    sigmoids = 1 / (1 + np.exp(-np.clip(logits, -MOST_LOGIT, MOST_LOGIT)))
    _, height, width, _ = logits.shape
    cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    if is_v3:
        in_cell = sigmoids[..., :2]
        factors = np.exp(np.minimum(logits[..., 2:4], MOST_LOG_SIZE))
    else:
        in_cell = sigmoids[..., :2] * 2 - 0.5  # a centre may lie half a cell outside its own
        factors = (2 * sigmoids[..., 2:4]) ** 2
    centres = (in_cell + cells) * stride
    sizes = factors * anchors[:, None, None, :]
    boxes = np.concatenate([centres, sizes], axis=-1).reshape(-1, 4)
    scores = sigmoids[..., 5:] * sigmoids[..., 4:5]
    return boxes.astype(np.float32), scores.reshape(len(boxes), -1).astype(np.float32)


def _error(reason: str) -> StageError:
    return StageError(f"postprocess yolo_boxes: {reason}")
