"""What a network seems to be for, by the shapes of what it gives; a guess, and told as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qpipe.start.network_facts import Tensor

Size = tuple[int, int]  # height, width
IMAGENET = {1000: ", as ImageNet's", 1001: ", as ImageNet's with a background"}
SCORED = ("Softmax", "Sigmoid")
ANCHORS = [
    [10, 13, 16, 30, 33, 23],
    [30, 61, 62, 45, 59, 119],
    [116, 90, 156, 198, 373, 326],
]  # YOLOv5 and v7


@dataclass(frozen=True)
class Family:
    """A guess: what it is, in words, and the postprocess stage that would read its outputs."""

    name: Literal["classifier", "ssd", "yolo", "maps", "sequence", "unknown"]
    words: str
    classes: int = 0
    postprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: str = ""  # what to look at in the postprocess


def family(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], ends: Mapping[str, str], size: Size | None
) -> Family:
    """By outputs of known shapes, the operators that give them, and the size of pictures where it takes some."""
    if any(isinstance(length, str) for value in outputs for length in value.shape):
        words = (
            "its outputs have no fixed shape, as those of a detector that suppresses boxes itself"
        )
        return Family("unknown", words)
    return (
        _ssd(outputs, ends, size)
        or (size and (_yolo(outputs, size) or _raw_yolo(outputs, size)))
        or _classifier(outputs[0], ends)
        or _maps(outputs[0], size)
        or _sequence(inputs, outputs[0])
        or Family("unknown", "nothing that qpipe knows by the shapes of its outputs")
    )


def _ssd(outputs: Sequence[Tensor], ends: Mapping[str, str], size: Size | None) -> Family | None:
    tables = [value for value in outputs if len(value.shape) == 3]
    boxes = next((value for value in tables if value.shape[2] == 4), None)
    scores = next(
        (v for v in tables if v is not boxes and boxes and v.shape[1] == boxes.shape[1]), None
    )
    if not (boxes and scores and size):
        return None
    classes = int(scores.shape[2])
    words = f"a detector like SSD: {boxes.shape[1]} boxes in '{boxes.name}', scores of {classes} classes in "
    words += f"'{scores.name}', the background among them"
    if ends.get(scores.name) in SCORED:
        return Family("ssd", f"{words}, as probabilities", classes)
    options = {"size": max(size), "boxes": boxes.name, "scores": scores.name}
    check = "strides, scales, ratios, variances must be those it was trained with: qpipe describe postprocess ssd_boxes"
    return Family("ssd", words, classes, {"ssd_boxes": options}, check)


def _yolo(outputs: Sequence[Tensor], size: Size) -> Family | None:
    tables = [value for value in outputs if len(value.shape) == 3]
    if len(tables) != 1:
        return None
    _, rows, columns = (int(length) for length in tables[0].shape)
    of_grids = [sum(cells(size, strides)) for strides in ((8, 16, 32), (8, 16, 32, 64))]
    name = tables[0].name
    if columns in of_grids and rows >= 5:
        version = "v8"
        classes = rows - 4
    elif rows in [3 * count for count in of_grids] and columns >= 6:
        version = "v5"
        classes = columns - 5
    elif columns == 6 and rows >= 100:
        version = "v10"
        classes = 0
    else:
        return None
    words = f"a detector like YOLO ({version}): {max(rows, columns)} boxes"
    words += f", {classes} classes" if classes else " without need of suppression"
    check = "that version, boxes in pixels and scores after the sigmoid: qpipe describe postprocess yolo_boxes"
    return Family(
        "yolo", words, classes, {"yolo_boxes": {"version": version, "output": name}}, check
    )


def _raw_yolo(outputs: Sequence[Tensor], size: Size) -> Family | None:
    """Three heads of three anchors a cell, [1, 3 * (5 + C), H, W] or [1, 3, H, W, 5 + C]."""
    depths = set()
    counts = []
    for value in outputs:
        shape = [int(length) for length in value.shape]
        if len(shape) == 4 and shape[1] % 3 == 0:
            depths.add(shape[1] // 3)
            counts.append(shape[2] * shape[3])
        elif len(shape) == 5 and shape[1] == 3:
            depths.add(shape[4])
            counts.append(shape[2] * shape[3])
    if (
        len(depths) != 1
        or len(counts) != len(outputs)
        or sorted(counts) != sorted(cells(size, (8, 16, 32)))
    ):
        return None
    classes = depths.pop() - 5
    if classes < 1:
        return None
    words = f"a detector like YOLO: three raw heads, {classes} classes"
    check = "anchors and version (v3, or v5 also for v7) must be those it was trained with"
    return Family(
        "yolo", words, classes, {"yolo_boxes": {"version": "v5", "anchors": ANCHORS}}, check
    )


def cells(size: Size, strides: Sequence[int]) -> list[int]:
    """Of the grid of each stride, how many there are."""
    return [math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in strides]


def _classifier(output: Tensor, ends: Mapping[str, str]) -> Family | None:
    lengths = [int(length) for length in output.shape if length != 1]
    if len(lengths) != 1 or len(output.shape) < 2 or "float" not in output.dtype:
        return None
    end = ends.get(output.name)
    gives = {
        "Softmax": "probabilities",
        "LogSoftmax": "logarithms of probabilities",
        "Sigmoid": "a score for each",
    }
    like = IMAGENET.get(lengths[0], "")
    words = f"a classifier of {lengths[0]} classes{like}, giving {gives.get(end or '', 'logits')}"
    return Family("classifier", words, lengths[0])


def _maps(output: Tensor, size: Size | None) -> Family | None:
    if size is None or len(output.shape) != 4:
        return None
    return Family(
        "maps", f"maps of {list(output.shape[1:])}: segmentation, depth or another picture"
    )


def _sequence(inputs: Sequence[Tensor], output: Tensor) -> Family | None:
    tokens = any("int" in value.dtype and len(value.shape) == 2 for value in inputs)
    if len(output.shape) != 3 or not (tokens or 1 in output.shape[:2]):
        return None
    return Family(
        "sequence", f"a sequence of {list(output.shape)}{' from tokens' if tokens else ''}"
    )
