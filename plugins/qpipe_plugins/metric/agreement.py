"""How often a quantized network answers as the float network does, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.detections import overlaps, read_boxes


def agreement(*, iou: float = 0.5, score: float = 0.5, axis: int | None = None) -> qpipe.Metric:
    """Share of answers that are those of float: the highest scores of each output, detections, texts or whole numbers.

    Scores [1, C], or of any shape with one axis longer than 1, have one answer; [1, C, H, W] has one for each pixel;
    for other shapes `axis` says which is that of the classes. Whole numbers, truth values and texts are answers
    themselves. Of several outputs it is the mean, without those of one number, which answers nothing. Detections
    (boxes, scores, labels) of at least `score` agree one to one where labels are equal and boxes overlap by at least
    `iou`; the share of a sample is what agrees over what either network found, 1 where both found nothing.
    """

    def contribution(prediction: Any, reference: Any) -> float:
        if (
            isinstance(prediction, Mapping)
            and isinstance(reference, Mapping)
            and _detects(prediction)
        ):
            return _shared(_confident(prediction, score), _confident(reference, score), iou)
        return _same(_named(prediction), _named(reference), axis)

    return qpipe.Metric("agreement", contribution, _mean, unit="share", against="float")


def _mean(contributions: Sequence[float]) -> float:
    return float(np.mean(contributions))


def _detects(prediction: Mapping[str, Any]) -> bool:
    return {"boxes", "scores", "labels"} <= prediction.keys()


def _named(prediction: Any) -> dict[str, Array]:
    outputs = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
    return {name: np.asarray(given) for name, given in outputs.items()}


def _same(outputs: Mapping[str, Array], references: Mapping[str, Array], axis: int | None) -> float:
    """The mean share over the outputs that have answers."""
    answering = [name for name, array in references.items() if _answers(array)]
    if not answering:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in references.items())
        raise _unclear(f"no highest score in {shapes}")
    shares = []
    for name in answering:
        one = outputs[name]
        other = references[name]
        if one.shape != other.shape:
            shares.append(0.0)
            continue
        of = _class_axis(name, other.shape, axis) if other.dtype.kind == "f" else None
        shares.append(float(np.mean(_answer(one, of) == _answer(other, of))))
    return float(np.mean(shares))


def _answers(array: Array) -> bool:
    return array.size > 1 if array.dtype.kind == "f" else array.size > 0


def _class_axis(name: str, shape: tuple[int, ...], axis: int | None) -> int:
    long = [index for index, length in enumerate(shape) if length > 1]
    if len(long) == 1:
        return long[0]
    if axis is not None and -len(shape) <= axis < len(shape):
        return axis
    if axis is None and len(shape) == 4:
        _, channels, height, width = shape
        # a network from TensorFlow may have its classes last
        if channels > 1 and (channels < min(height, width) or height == width != channels):
            return 1
    raise _unclear(
        f"which axis of output '{name}' {list(shape)} is that of the classes? set axis, or postprocess"
    )


def _answer(array: Array, axis: int | None) -> Array:
    """The index of the highest score; where one is no number, nothing that equals anything."""
    if axis is None:
        return array
    return np.where(np.isnan(array).any(axis=axis), np.nan, array.argmax(axis=axis))


def _unclear(reason: str) -> qpipe.StageError:
    return qpipe.StageError(
        f"metric agreement: {reason}; sqnr compares numbers (leave agreement out by always: [sqnr])"
    )


def _confident(detections: Mapping[str, Array], score: float) -> tuple[Array, Array]:
    """Boxes and labels, best first."""
    arrays = read_boxes("agreement", detections, "a prediction", "scores")
    scores = arrays["scores"]
    kept = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= score)]
    return arrays["boxes"][kept], arrays["labels"][kept]


def _shared(one: tuple[Array, Array], other: tuple[Array, Array], iou: float) -> float:
    found = len(one[0]), len(other[0])
    if not any(found):
        return 1.0
    shares = np.where(one[1][:, None] == other[1][None, :], overlaps(one[0], other[0]), 0.0)
    matched = 0
    while shares.size and (best := shares.max()) >= iou and best > 0:
        row, column = np.unravel_index(int(shares.argmax()), shares.shape)
        shares[row, :] = shares[:, column] = 0.0
        matched += 1
    return matched / (sum(found) - matched)
