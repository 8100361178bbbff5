"""From the raw heads of an anchor-based YOLO network, one output for each stride, to boxes and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.postprocess.non_max_suppression import Floats


def raw_heads(
    outputs: Mapping[str, Array],
    anchors: Sequence[Sequence[float]],
    strides: Sequence[int],
    version: str,
) -> tuple[Floats, Floats]:
    """Boxes [N, 4] (centre x, centre y, width, height in pixels) and scores [N, C] of all heads, the finest first.

    Outputs may come in any order: the one of most cells has the smallest stride. Anchors are pairs of width and height
    in pixels, a list for each stride (Redmon & Farhadi 2018, arXiv 1804.02767; github.com/ultralytics/yolov5).
    """
    if version not in ("auto", "v3", "v5"):
        raise _wrong(
            f"anchors are not for version {version}; leave them out, or set version v5 or v3"
        )
    if not len(anchors) == len(strides) == len(outputs):
        counts = f"{len(outputs)} outputs, anchors for {len(anchors)} and {len(strides)} strides"
        raise _wrong(f"{counts}; give a list of anchors and a stride for each output")
    if any(not own or len(own) % 2 for own in anchors):
        raise _wrong("anchors are pairs; give w, h, w, h ... for each stride")
    by_stride = sorted(zip(strides, anchors, strict=True), key=lambda each: each[0])
    heads = sorted(outputs.items(), key=lambda each: -math.prod(each[1].shape[2:4]))
    parts = [
        _head(name, array, np.array(own, np.float32).reshape(-1, 2), stride, version == "v3")
        for (name, array), (stride, own) in zip(heads, by_stride, strict=True)
    ]
    boxes, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
    return boxes, scores


def _head(
    name: str, array: Array, anchors: Floats, stride: int, is_v3: bool
) -> tuple[Floats, Floats]:
    """Of one head: w and h are the anchor's times (2 s)^2, or e^t in v3; s is the sigmoid of t."""
    count = len(anchors)
    if array.ndim == 4 and array.shape[1] % count == 0:
        array = np.moveaxis(array.reshape(count, -1, *array.shape[2:]), 1, -1)[None]
    if array.ndim != 5 or array.shape[1] != count or array.shape[-1] < 6:
        right = f"[1, {count} * (5 + classes), height, width] or [1, {count}, height, width, 5 + classes]"
        raise _wrong(
            f"output '{name}' is {list(array.shape)}; a head of {count} anchors is {right}"
        )
    t = np.asarray(array[0], np.float32)
    s = 1 / (1 + np.exp(-np.clip(t, -60, 60)))
    cells = np.stack(np.meshgrid(np.arange(t.shape[2]), np.arange(t.shape[1])), axis=-1)
    spread = 1 if is_v3 else 2  # since v5 a centre may lie half a cell outside of its own
    centres = (s[..., :2] * spread - (spread - 1) / 2 + cells) * stride
    # exp of an outlier would overflow; no box is e^8 times its anchor
    factors = np.exp(np.minimum(t[..., 2:4], 8)) if is_v3 else (2 * s[..., 2:4]) ** 2
    boxes = np.concatenate([centres, factors * anchors[:, None, None, :]], axis=-1).reshape(-1, 4)
    scores = (s[..., 5:] * s[..., 4:5]).reshape(len(boxes), -1)
    return boxes.astype(np.float32), scores.astype(np.float32)


def _wrong(reason: str) -> qpipe.StageError:
    return qpipe.StageError(f"postprocess yolo_boxes: {reason}")
