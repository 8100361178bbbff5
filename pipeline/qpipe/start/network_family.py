"""A guess of what a network is for, by the shapes of its outputs; it is told as a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qpipe.start.network_facts import Tensor

Size = tuple[int, int]  # height, width
IMAGENET_CLASSES_WITH_BACKGROUND = 1001
IMAGENET_NOTES = {
    1000: ", as ImageNet's",
    IMAGENET_CLASSES_WITH_BACKGROUND: ", as ImageNet's with a background",
}
PROBABILITY_OPERATORS = ("Softmax", "Sigmoid")
SCORES_BY_OPERATOR = {
    "Softmax": "probabilities",
    "LogSoftmax": "logarithms of probabilities",
    "Sigmoid": "a score for each",
}
# of YOLOv5 and v7
ANCHORS = [
    [10, 13, 16, 30, 33, 23],
    [30, 61, 62, 45, 59, 119],
    [116, 90, 156, 198, 373, 326],
]
STRIDES = (8, 16, 32)
STRIDES_OF_P6 = (8, 16, 32, 64)
ANCHORS_PER_CELL = 3
BOX_AND_OBJECTNESS = 5  # columns before the class scores
# of detectors that suppress boxes themselves: the corners, the score and the label of the best
COLUMNS_OF_V10 = 6
ROWS_OF_V10 = range(100, 301)


@dataclass(frozen=True)
class Family:
    """A guess: what the network is, in words, and the postprocess stage that reads its outputs."""

    name: Literal["classifier", "ssd", "yolo", "maps", "sequence", "detections", "unknown"]
    words: str
    classes: int = 0
    postprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: str = ""  # what the user must check in the postprocess


def guess_family(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], ends: Mapping[str, str], size: Size | None
) -> Family:
    """Guess by the outputs' shapes, the operators that compute them, and the size of pictures."""
    if _have_open_sizes(outputs) and _have_open_sizes(inputs):
        words = "its outputs differ in size with its inputs"
        return _sequence(inputs, outputs[0]) or Family("unknown", words)
    if _have_open_sizes(outputs):
        words = "its outputs have no fixed shape, as those of a detector with its own suppression"
        return Family("detections", words)
    guesses: list[Family | None] = []
    if size:
        guesses += [_ssd(outputs, ends, size), _yolo(outputs, size), _raw_yolo(outputs, size)]
    guesses.append(_classifier(outputs[0], ends))
    if size:
        guesses.append(_maps(outputs[0]))
    guesses.append(_sequence(inputs, outputs[0]))
    for guess in guesses:
        if guess is not None:
            return guess
    return Family("unknown", "nothing that qpipe knows by the shapes of its outputs")


def _have_open_sizes(tensors: Sequence[Tensor]) -> bool:
    return any(isinstance(length, str) for tensor in tensors for length in tensor.shape)


def _tables(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [value for value in outputs if len(value.shape) == 3]


def _ssd(outputs: Sequence[Tensor], ends: Mapping[str, str], size: Size) -> Family | None:
    """Boxes [1, N, 4] and scores [1, N, classes]."""
    boxes = next((value for value in _tables(outputs) if value.shape[2] == 4), None)
    if boxes is None:
        return None
    score_tables = [
        value
        for value in _tables(outputs)
        if value is not boxes and value.shape[1] == boxes.shape[1]
    ]
    if not score_tables:
        return None
    scores = score_tables[0]
    classes = int(scores.shape[2])
    words = (
        f"a detector like SSD: {boxes.shape[1]} boxes in '{boxes.name}', scores of {classes} "
        f"classes in '{scores.name}', the background among them"
    )
    if ends.get(scores.name) in PROBABILITY_OPERATORS:
        return Family("ssd", f"{words}, as probabilities", classes)
    options = {"size": max(size), "boxes": boxes.name, "scores": scores.name}
    check = (
        "strides, scales, ratios, variances must be those it was trained with: "
        "qpipe describe postprocess ssd_boxes"
    )
    return Family("ssd", words, classes, {"ssd_boxes": options}, check)


def _yolo(outputs: Sequence[Tensor], size: Size) -> Family | None:
    """One table of boxes: v8 [1, 4 + C, N], v5 [1, N, 5 + C], v10 [1, N, 6]."""
    tables = _tables(outputs)
    if len(tables) != 1:
        return None
    table = tables[0]
    _, rows, columns = (int(length) for length in table.shape)
    cell_counts = [sum(cells(size, strides)) for strides in (STRIDES, STRIDES_OF_P6)]
    box_counts = [ANCHORS_PER_CELL * count for count in cell_counts]
    if columns in cell_counts and rows >= 5:
        version = "v8"
        classes = rows - 4
    elif rows in box_counts and columns > BOX_AND_OBJECTNESS:
        version = "v5"
        classes = columns - BOX_AND_OBJECTNESS
    elif rows in cell_counts:
        words = f"a detector with a row for each of {rows} cells, as YOLOX; no postprocess reads it"
        return Family("unknown", words)
    elif columns == COLUMNS_OF_V10 and rows in ROWS_OF_V10:
        version = "v10"
        classes = 0
    else:
        return None
    words = f"a detector like YOLO ({version}): {max(rows, columns)} boxes"
    words += f", {classes} classes" if classes else " without need of suppression"
    options = {"version": version, "output": table.name}
    check = (
        "that version, boxes in pixels and scores after the sigmoid: "
        "qpipe describe postprocess yolo_boxes"
    )
    return Family("yolo", words, classes, {"yolo_boxes": options}, check)


def _raw_yolo(outputs: Sequence[Tensor], size: Size) -> Family | None:
    """Three heads of three anchors a cell, [1, 3 * (5 + C), H, W] or [1, 3, H, W, 5 + C]."""
    depths: set[int] = set()
    cell_counts: list[int] = []
    for value in outputs:
        shape = [int(length) for length in value.shape]
        if len(shape) == 4 and shape[1] % ANCHORS_PER_CELL == 0:
            depths.add(shape[1] // ANCHORS_PER_CELL)
        elif len(shape) == 5 and shape[1] == ANCHORS_PER_CELL:
            depths.add(shape[4])
        else:
            return None
        cell_counts.append(shape[2] * shape[3])
    if len(depths) != 1 or sorted(cell_counts) != sorted(cells(size, STRIDES)):
        return None
    classes = depths.pop() - BOX_AND_OBJECTNESS
    if classes < 1:
        return None
    words = f"a detector like YOLO: three raw heads, {classes} classes"
    check = "anchors and version (v3, or v5 also for v7) must be those it was trained with"
    options = {"version": "v5", "anchors": ANCHORS}
    return Family("yolo", words, classes, {"yolo_boxes": options}, check)


def cells(size: Size, strides: Sequence[int]) -> list[int]:
    """Return the number of cells in the grid of each stride."""
    height, width = size
    return [math.ceil(height / stride) * math.ceil(width / stride) for stride in strides]


def _classifier(output: Tensor, ends: Mapping[str, str]) -> Family | None:
    lengths = [int(length) for length in output.shape if length != 1]
    if len(lengths) != 1 or len(output.shape) < 2 or "float" not in output.dtype:
        return None
    classes = lengths[0]
    scores = SCORES_BY_OPERATOR.get(ends.get(output.name, ""), "logits")
    note = IMAGENET_NOTES.get(classes, "")
    return Family(
        "classifier", f"a classifier of {classes} classes{note}, giving {scores}", classes
    )


def _maps(output: Tensor) -> Family | None:
    if len(output.shape) != 4:
        return None
    words = f"maps of {list(output.shape[1:])}: segmentation, depth or another picture"
    return Family("maps", words)


def _sequence(inputs: Sequence[Tensor], output: Tensor) -> Family | None:
    takes_tokens = any("int" in value.dtype and len(value.shape) == 2 for value in inputs)
    if len(output.shape) != 3 or not (takes_tokens or 1 in output.shape[:2]):
        return None
    origin = " from tokens" if takes_tokens else ""
    return Family("sequence", f"a sequence of [{', '.join(map(str, output.shape))}]{origin}")
