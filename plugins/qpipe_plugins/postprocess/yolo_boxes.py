"""From the outputs of YOLO networks, as exported to ONNX, to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from qpipe.errors import StageError
from qpipe_plugins.postprocess.non_max_suppression import (
    Detections,
    Floats,
    above_threshold,
    suppress,
)
from qpipe_plugins.postprocess.output_choice import choose_output
from qpipe_plugins.postprocess.yolo_heads import decode_raw_heads

if TYPE_CHECKING:
    from qpipe.types import Array

LAYOUTS = {"v5": "[1, boxes, 5 + classes]", "v8": "[1, 4 + classes, boxes]", "v10": "[1, boxes, 6]"}
CANDIDATES = 30_000  # as in Ultralytics' evaluation
# cells of an image of 32 x 32 at strides 8, 16, 32, and of 64 x 64 with stride 64 too
CELLS = (21, 85)


def yolo_boxes(
    outputs: Mapping[str, Array],
    *,
    version: Literal["auto", "v3", "v5", "v8", "v10"] = "auto",
    score_threshold: float = 0.001,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    by_label: bool = True,
    box_format: Literal["cxcywh", "xyxy"] | None = None,
    size: tuple[int, int] | None = None,
    anchors: Sequence[Sequence[float]] = (),
    strides: Sequence[int] = (8, 16, 32),
    output: str | None = None,
) -> Detections:
    """Detections of a YOLO network (v3, v5, v7, v8, v10, v11), best first, in pixels of its input.

    version v5 (also v7): [1, N, 5 + C], a row is a box, objectness, class scores; v8 (also v11):
    [1, 4 + C, N], without objectness; v10 (also others without suppression): [1, N, 6], rows of x1,
    y1, x2, y2, score, label. Boxes are in pixels, in `box_format` (v10 xyxy, else cxcywh), scores
    after the sigmoid. auto takes v5 or v8 where the shape leaves no doubt. `anchors` (a list w, h,
    w, h ... in pixels for each stride) means that the outputs are the raw heads of v5, v7 or, with
    version v3, of v3 and v4: for each stride [1, A * (5 + C), H, W] or [1, A, H, W, 5 + C].

    Each class of a box above `score_threshold` is a detection (objectness times class score),
    suppressed by those of its own class, or of all classes where `by_label` is false. `size`
    [height, width] of the input cuts boxes at its border. Defaults are those of Ultralytics'
    evaluation (github.com/ultralytics/yolov5, val.py).
    """
    if anchors:
        boxes, scores = decode_raw_heads(outputs, anchors, strides, version)
        detections = above_threshold(boxes, scores, score_threshold)
    else:
        name, array = _table(outputs, output)
        if version == "auto":
            version = _version_by_shape(name, array.shape)
        detections = _detections_of_table(name, array, version, score_threshold)
    if box_format == "cxcywh" or (box_format is None and version != "v10"):
        detections["boxes"] = _corners(detections["boxes"])
    if size is not None:
        height, width = size
        border = np.array([width, height, width, height], np.float32)
        detections["boxes"] = np.clip(detections["boxes"], 0, border)
    return suppress(
        detections,
        iou_threshold=1.0 if version == "v10" else iou_threshold,
        max_detections=max_detections,
        candidates=CANDIDATES,
        by_label=by_label,
    )


def _table(outputs: Mapping[str, Array], output: str | None) -> tuple[str, Array]:
    """Return the output that holds the boxes: the named one, or the only one with three axes."""
    tables = {name: array for name, array in outputs.items() if array.ndim == 3}
    name = output or ""
    if output:
        choose_output(outputs, output, "yolo_boxes")
    elif len(tables) == 1:
        name = next(iter(tables))
    if name not in tables:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        fix = "set output to the one that is [1, .., ..], or give anchors for raw heads"
        raise StageError(f"postprocess yolo_boxes: which output? there is {shapes}; {fix}")
    return name, tables[name]


def _detections_of_table(name: str, array: Array, version: str, threshold: float) -> Detections:
    """Return all detections above the threshold, boxes in the format that they have."""
    table = np.asarray(array[0].T if version == "v8" else array[0], np.float32)
    boxes, columns = table.shape
    fits = {
        "v5": boxes >= columns >= 6,
        "v8": boxes >= columns >= 5,
        "v10": columns == 6,
    }
    if not fits.get(version, False):
        fix = "give anchors"
        if version in LAYOUTS:
            fix = f"{version} is {LAYOUTS[version]}; set another version"
        reason = f"output '{name}' is {list(array.shape)}"
        raise StageError(f"postprocess yolo_boxes: {reason}; {fix}")
    if version == "v10":
        confident = table[table[:, 4] > threshold]
        return {
            "boxes": confident[:, :4],
            "scores": confident[:, 4],
            "labels": np.rint(confident[:, 5]).astype(np.int64),
        }
    scores = table[:, 5:] * table[:, 4:5] if version == "v5" else table[:, 4:]
    return above_threshold(table[:, :4], scores, threshold)


def _version_by_shape(name: str, shape: tuple[int, ...]) -> Literal["v5", "v8"]:
    """Return the version by which axis can be that of the boxes.

    That is the longer one, with a multiple of the number of cells; v5 has three boxes a cell.
    """
    _, rows, columns = shape
    if columns > rows >= 5 and any(columns % cells == 0 for cells in CELLS):
        return "v8"
    if rows > columns >= 6 and any(rows % (3 * cells) == 0 for cells in CELLS):
        return "v5"
    layouts = ", ".join(f"{version} for {layout}" for version, layout in LAYOUTS.items())
    raise StageError(
        f"postprocess yolo_boxes: the version is not clear from output '{name}' {list(shape)}; "
        f"set version: {layouts}"
    )


def _corners(boxes: Floats) -> Floats:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
