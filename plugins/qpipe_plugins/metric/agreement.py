"""How often a quantized network answers as the float network does, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.detections import overlaps, read_boxes


def agreement(*, iou: float = 0.5, score: float = 0.5, axis: int | None = None) -> qpipe.Metric:
    """Share of answers equal to those of the float network: classes, detections, texts or integers.

    The answer of scores is the class with the highest: one for [1, C], or any shape with one axis
    longer than 1; one for each pixel for [1, C, H, W]; for other shapes `axis` is that of the
    classes. Integers, booleans and texts are answers themselves. Over several outputs it is the
    mean, without outputs of one float, which are no answer, and without those whose classes have
    no known axis where others do; these are named. Detections (boxes, scores, labels) with
    a score of at least `score` agree one to one where labels are equal and boxes overlap by at
    least `iou`; the share of a sample is the number of pairs over the number of different
    detections of both networks, and 1 where neither detects anything.
    """

    def contribution(prediction: Any, reference: Any) -> float:
        if _is_detection(prediction) and isinstance(reference, Mapping):
            return _detection_share(
                _confident(prediction, score), _confident(reference, score), iou
            )
        return _answer_share(_outputs_by_name(prediction), _outputs_by_name(reference), axis)

    def not_compared(prediction: Any, reference: Any) -> dict[str, str]:
        if _is_detection(prediction):
            return {}
        return _without_class_axis(_outputs_by_name(reference), axis)

    return qpipe.Metric(
        "agreement",
        contribution,
        _mean,
        unit="share",
        against="float",
        by_chunk=True,
        not_compared=not_compared,
    )


def _mean(contributions: Sequence[float]) -> float:
    return float(np.mean(contributions))


def _is_detection(prediction: Any) -> bool:
    if not isinstance(prediction, Mapping):
        return False
    return {"boxes", "scores", "labels"} <= prediction.keys()


def _outputs_by_name(prediction: Any) -> dict[str, Array]:
    outputs = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
    return {name: np.asarray(output) for name, output in outputs.items()}


# ---- classes, texts and integers


def _answer_share(
    outputs: Mapping[str, Array], references: Mapping[str, Array], axis: int | None
) -> float:
    """Return the mean share over the outputs that have answers."""
    names = [name for name, reference in references.items() if _has_answer(reference)]
    if not names:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in references.items())
        raise _cannot_compare(f"no highest score in {shapes}")
    reasons = _without_class_axis(references, axis)
    comparable = [name for name in names if name not in reasons]
    if not comparable:
        name = names[0]
        shape = list(references[name].shape)
        question = f"which axis of output '{name}' {shape} is that of the classes?"
        raise _cannot_compare(f"{question} set axis, or postprocess")
    shares = [_share_of_output(outputs[name], references[name], axis) for name in comparable]
    return float(np.mean(shares))


def _share_of_output(output: Array, reference: Array, axis: int | None) -> float:
    """Return the share of equal answers; another number of answers is none that is equal."""
    if output.shape != reference.shape:
        return 0.0
    if reference.dtype.kind != "f":
        return float(np.mean(output == reference))
    class_axis = _class_axis(reference.shape, axis)
    assert class_axis is not None  # others are left out
    equal = _best_class(output, class_axis) == _best_class(reference, class_axis)
    return float(np.mean(equal))


def _without_class_axis(references: Mapping[str, Array], axis: int | None) -> dict[str, str]:
    """Return the outputs that cannot be compared, with the question that is open."""
    reasons: dict[str, str] = {}
    for name, array in references.items():
        is_float_answer = array.dtype.kind == "f" and _has_answer(array)
        if is_float_answer and _class_axis(array.shape, axis) is None:
            reasons[name] = f"which axis of {list(array.shape)} is that of the classes?"
    return reasons


def _has_answer(array: Array) -> bool:
    """Return whether an output is an answer: any integers, or more than one float."""
    least_size = 2 if array.dtype.kind == "f" else 1
    return array.size >= least_size


def _class_axis(shape: tuple[int, ...], axis: int | None) -> int | None:
    """Return the axis of the classes; None where it is not clear."""
    long_axes = [index for index, length in enumerate(shape) if length > 1]
    if len(long_axes) == 1:
        return long_axes[0]
    if axis is not None and -len(shape) <= axis < len(shape):
        return axis
    if axis is None and len(shape) == 4:
        _, channels, height, width = shape
        # a network from TensorFlow may have its classes last
        is_channel_first = channels < min(height, width) or height == width != channels
        if channels > 1 and is_channel_first:
            return 1
    return None


def _best_class(scores: Array, axis: int) -> Array:
    """Return the index of the highest score; NaN, which equals nothing, where a score is NaN."""
    has_nan = np.isnan(scores).any(axis=axis)
    return np.where(has_nan, np.nan, scores.argmax(axis=axis))


def _cannot_compare(reason: str) -> qpipe.StageError:
    fix = "sqnr compares numbers (leave agreement out by always: [sqnr])"
    return qpipe.StageError(f"metric agreement: {reason}; {fix}")


# ---- detections


class _Detections(NamedTuple):
    boxes: Array  # float64 [n, 4]
    labels: Array  # [n]


def _confident(detections: Mapping[str, Array], score: float) -> _Detections:
    """Return the detections with at least this score, best first."""
    arrays = read_boxes("agreement", detections, "a prediction", "scores")
    scores = arrays["scores"]
    count = np.count_nonzero(scores >= score)
    indices = np.argsort(-scores, kind="stable")[:count]
    return _Detections(arrays["boxes"][indices], arrays["labels"][indices])


def _detection_share(detections: _Detections, reference: _Detections, iou: float) -> float:
    """Return the number of pairs over the number of different detections.

    Pairs are matched greedily, the largest overlap first.
    """
    total = len(detections.boxes) + len(reference.boxes)
    if not total:
        return 1.0
    has_equal_label = detections.labels[:, None] == reference.labels[None, :]
    shares = np.where(has_equal_label, overlaps(detections.boxes, reference.boxes), 0.0)
    pairs = 0
    while shares.size:
        best = shares.max()
        if best < iou or best <= 0:
            break
        row, column = np.unravel_index(int(shares.argmax()), shares.shape)
        shares[row, :] = 0.0
        shares[:, column] = 0.0
        pairs += 1
    return pairs / (total - pairs)
