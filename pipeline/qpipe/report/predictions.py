"""Predictions in words: detections, the best classes, a text, or the ranges of the outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from qpipe.report.box_drawing import Box
from qpipe.report.report_types import CorrectLabels
from qpipe.types import Array

MIN_DRAWN_SCORE = 0.3  # detections below it are counted, not drawn
MAX_DRAWN_BOXES = 40
TOP_CLASSES = 5
# fewer labels, or fewer distinct ones, prove nothing about their numbering
MIN_LABELS = 8
MIN_DISTINCT_LABELS = 3
MAX_TEXT = 300  # characters of a value that is printed as it is

# a target of any kind, and the outputs of the network or what a postprocess made of them
TargetAndPrediction = tuple[Any, Any]


@dataclass(frozen=True)
class Description:
    """A prediction beside its target, for the page and for samples.json."""

    lines: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    json: Any = None


@dataclass(frozen=True)
class LabelledScores:
    """The label of a sample and the scores of all classes that were predicted for it."""

    label: int
    scores: Array

    @property
    def predicted_label(self) -> int:
        """The class with the highest score."""
        return int(self.scores.argmax())


def describe_prediction(prediction: Any, target: Any, class_names: Sequence[str]) -> Description:
    """Describe a prediction beside its target."""
    if _has_boxes(prediction):
        return _describe_detections(prediction, target, class_names)
    if _has_boxes(target):
        target_boxes = _boxes_by_index(target, class_names, is_target=True)
        lines = [*_output_ranges(prediction), _count_target_boxes(len(target_boxes))]
        return Description(lines, list(target_boxes.values()))
    if _is_text(prediction):
        text = prediction["text"]
        lines = [f"predicted: {text!r}"]
        if target is not None:
            lines.append(f"target: {_to_json(target)!r}")
        return Description(lines, json={"text": text})
    scores = _class_scores(prediction)
    if scores is not None and (target is None or _is_int(target)):
        return _describe_classes(scores, target, class_names)
    lines = _output_ranges(prediction)
    if target is not None:
        lines.append(f"target: {_to_json(target)}")
    return Description(lines)


def count_correct_labels(pairs: Sequence[TargetAndPrediction]) -> CorrectLabels | None:
    """Count the samples whose label has the highest score; None where there are no labels."""
    labelled = _labelled_scores(pairs)
    if not labelled:
        return None
    correct = [sample for sample in labelled if sample.predicted_label == sample.label]
    return {"labels": len(correct), "of": len(labelled)}


def label_warnings(pairs: Sequence[TargetAndPrediction]) -> list[str]:
    """Return a warning where no label is predicted right, with the most likely reason."""
    labelled = _labelled_scores(pairs)
    distinct_labels = {sample.label for sample in labelled}
    if len(labelled) < MIN_LABELS or len(distinct_labels) < MIN_DISTINCT_LABELS:
        return []
    offsets = Counter(sample.predicted_label - sample.label for sample in labelled)
    if 0 in offsets:
        return []
    offset, count = offsets.most_common(1)[0]
    if 2 * count > len(labelled):
        return [
            f"labels: most predicted classes are the label {offset:+d}; "
            "the labels are numbered differently from the network's classes"
        ]
    return [
        f"labels: float is right in none of {len(labelled)} samples; check the pictures, the order "
        "of their colors, mean and std, and the numbering of the labels"
    ]


def _labelled_scores(pairs: Sequence[TargetAndPrediction]) -> list[LabelledScores]:
    labelled = []
    for target, prediction in pairs:
        scores = _class_scores(prediction)
        if _is_int(target) and scores is not None:
            labelled.append(LabelledScores(target, scores))
    return labelled


# ---- detections


def _describe_detections(
    prediction: Mapping[str, Any], target: Any, class_names: Sequence[str]
) -> Description:
    predicted_boxes = _boxes_by_index(prediction, class_names, is_target=False)
    good = _good_boxes(prediction, predicted_boxes)
    drawn = good[:MAX_DRAWN_BOXES]
    lines = [
        _count_predicted_boxes(
            drawn=len(drawn),
            good=len(good),
            finite=len(predicted_boxes),
            total=len(prediction["boxes"]),
        )
    ]
    target_boxes = {}
    if _has_boxes(target):
        target_boxes = _boxes_by_index(target, class_names, is_target=True)
    if target is not None:
        lines.append(_count_target_boxes(len(target_boxes)))
    boxes = [*target_boxes.values(), *(predicted_boxes[index] for index in drawn)]
    return Description(lines, boxes, _detections_json(prediction, drawn))


def _good_boxes(prediction: Mapping[str, Any], boxes: Mapping[int, Box]) -> list[int]:
    """Return the indices of boxes that score high enough to be drawn, best first."""
    scores = _box_scores(prediction)
    ranking = np.argsort(-scores, kind="stable").tolist()
    return [index for index in ranking if index in boxes and scores[index] >= MIN_DRAWN_SCORE]


def _detections_json(prediction: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """Return the boxes, scores and labels at these indices."""
    detections = {}
    for name in ("boxes", "scores", "labels"):
        if name in prediction:
            values = _to_json(prediction[name])
            detections[name] = [values[index] for index in indices]
    return detections


def _count_predicted_boxes(*, drawn: int, good: int, finite: int, total: int) -> str:
    line = f"{good} boxes found (orange)"
    if drawn < good:
        line += f", the best {drawn} drawn"
    if good < finite:
        line += f", {finite - good} more that score below {MIN_DRAWN_SCORE:g}"
    if finite < total:
        line += f", {total - finite} more that are not finite"
    return line


def _count_target_boxes(count: int) -> str:
    return f"{count} boxes expected (green)"


def _boxes_by_index(
    detections: Mapping[str, Any], class_names: Sequence[str], *, is_target: bool
) -> dict[int, Box]:
    """Return the boxes by their index; those with values that are not finite are left out."""
    corners = np.asarray(detections["boxes"], np.float64).reshape(-1, 4)
    scores = _box_scores(detections)
    is_scored = "scores" in detections and not is_target
    boxes = {}
    rows = zip(corners, _one_a_box(detections, "labels"), scores, strict=False)
    for index, (box_corners, label, score) in enumerate(rows):
        if not np.isfinite([*box_corners, score]).all():
            continue
        text = _class_name(label, class_names)
        if is_scored:
            text += f" {score:.2f}"
        x1, y1, x2, y2 = (float(corner) for corner in box_corners)
        boxes[index] = Box((x1, y1, x2, y2), text, is_target)
    return boxes


def _box_scores(detections: Mapping[str, Any]) -> Array:
    """Return the score of each box, 1 where there are no scores."""
    if "scores" in detections:
        return _one_a_box(detections, "scores").astype(np.float64)
    return np.ones(len(detections["boxes"]), np.float64)


def _one_a_box(detections: Mapping[str, Any], name: str) -> Array:
    """Return the values of all boxes, which a network may give with an axis of 1 more."""
    values: Array = np.asarray(detections[name])
    return values.reshape(-1) if values.size == len(detections["boxes"]) else values


def _has_boxes(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it has boxes [n, 4] and labels of one sample.

    The raw output `boxes` of a network has a batch axis and does not count.
    """
    if not isinstance(value, Mapping) or "boxes" not in value or "labels" not in value:
        return False
    shape = np.shape(value["boxes"])
    return shape == (0,) or (len(shape) == 2 and shape[1] == 4)


# ---- classes


def _describe_classes(scores: Array, label: int | None, class_names: Sequence[str]) -> Description:
    """Describe the best classes; the one that is the label is marked."""
    shares, unit = _class_shares(scores)
    ranking = np.argsort(-scores, kind="stable").tolist()
    best = ranking[:TOP_CLASSES]
    lines = []
    for index in best:
        mark = "✓" if index == label else "  "
        lines.append(f"{mark} {_class_name(index, class_names)}  {shares[index]:.1%}")
    if label is not None and label not in best:
        line = f"target: {_class_name(label, class_names)}"
        if label in ranking:
            line += f", at rank {ranking.index(label) + 1}"
        lines.append(line)
    lines.append(f"({unit})")
    top = [
        {"label": index, "name": _class_name(index, class_names), "score": float(scores[index])}
        for index in best
    ]
    is_right = None if label is None else best[0] == label
    return Description(lines, json={"top": top, "right": is_right})


def _class_shares(scores: Array) -> tuple[Array, str]:
    """Return the scores as probabilities, and how they came about."""
    finite = np.nan_to_num(scores.astype(np.float64))
    if finite.min() >= 0 and abs(finite.sum() - 1) < 0.01:
        return finite, "probabilities, as the network gives them"
    exponentials = np.exp(finite - finite.max())
    return exponentials / exponentials.sum(), "softmax of the outputs"


def _class_scores(prediction: Any) -> Array | None:
    """Return the first output where it is one row of float scores, [classes]."""
    first = prediction
    if isinstance(prediction, Mapping):
        first = next(iter(prediction.values()), None)
    if not isinstance(first, np.ndarray) or first.dtype.kind != "f":
        return None
    is_one_row = first.size >= 2 and max(first.shape) == first.size
    return first.reshape(-1) if is_one_row else None


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _class_name(label: Any, class_names: Sequence[str]) -> str:
    """Return the name of a class, or the label where the classes have no names."""
    number = _to_json(label)
    if _is_int(number) and 0 <= number < len(class_names):
        return class_names[number]
    return str(label)


# ---- anything else


def _is_text(prediction: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(prediction, Mapping) and isinstance(prediction.get("text"), str)


def _output_ranges(outputs: Any) -> list[str]:
    """Return a line for each output: its shape and range."""
    if outputs is None:
        return []
    if not isinstance(outputs, Mapping):
        return [f"predicted: {_printed(outputs)}"]
    return [f"{name}: {_describe_range(value)}" for name, value in outputs.items()]


def _describe_range(value: Any) -> str:
    if not isinstance(value, np.ndarray) or not value.size:
        return _printed(value)
    shape = list(value.shape)
    return f"{shape} from {value.min():.4g} to {value.max():.4g}, mean {value.mean():.4g}"


def _printed(value: Any) -> str:
    return str(_to_json(value))[:MAX_TEXT]


def _to_json(value: Any) -> Any:
    """Return arrays and numpy scalars as Python values, anything else unchanged."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
