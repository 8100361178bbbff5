"""What a network said of a sample, in words: detections, the best classes, a text, or the ranges of its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qpipe.report.box_drawing import Box
from qpipe.types import Array

SCORE = 0.3  # detections below it are counted, not drawn
MOST_DRAWN = 40
TOP = 5
ENOUGH = 8  # labels, before anything is said of them as a whole


@dataclass(frozen=True)
class Said:
    """A prediction for the page and for samples.json."""

    lines: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    plain: Any = None


def describe(predicted: Any, target: Any, classes: Sequence[str]) -> Said:
    """What was predicted beside what was wanted."""
    if _has_boxes(predicted) or _has_boxes(target):
        return _detections(predicted if _has_boxes(predicted) else None, target, classes, predicted)
    if _is_text(predicted):
        wanted = [f"target: {_plain(target)!r}"] if target is not None else []
        return Said(
            [f"predicted: {predicted['text']!r}", *wanted], plain={"text": predicted["text"]}
        )
    scores = _scores(predicted)
    if scores is not None and _is_label(target):
        return _classes(scores, target, classes)
    wanted = [f"target: {_plain(target)}"] if target is not None else []
    return Said([*_ranges(predicted), *wanted], plain=None)


def right(pairs: Sequence[tuple[Any, Any]]) -> tuple[int, int] | None:
    """How many labels come first among the scores, of how many, by (target, prediction); None where there is none."""
    found = _labelled(pairs)
    return (
        (sum(target == int(scores.argmax()) for target, scores in found), len(found))
        if found
        else None
    )


def _labelled(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[int, Array]]:
    return [
        (target, scores)
        for target, p in pairs
        if _is_int(target) and (scores := _scores(p)) is not None
    ]


def warnings(pairs: Sequence[tuple[Any, Any]]) -> list[str]:
    """What the labels of all samples together give away, by (target, prediction)."""
    found = _labelled(pairs)
    if len(found) < ENOUGH or len({target for target, _ in found}) < 3:
        return []
    best = [int(scores.argmax()) for _, scores in found]
    if any(target == own for (target, _), own in zip(found, best, strict=True)):
        return []
    apart, times = Counter(
        own - target for (target, _), own in zip(found, best, strict=True)
    ).most_common(1)[0]
    if 2 * times > len(found):
        return [
            f"labels: most predicted classes are the label {apart:+d}: the labels are numbered otherwise"
        ]
    return [
        f"labels: float is right in none of {len(found)} samples: look at the pictures, the order of their colours, "
        "mean and std, and the numbering of the labels"
    ]


# ---- detections


def _detections(predicted: Any, target: Any, classes: Sequence[str], outputs: Any) -> Said:
    wanted = _boxes(target, classes, is_target=True) if _has_boxes(target) else {}
    if predicted is None:
        return Said([*_ranges(outputs), f"{len(wanted)} boxes wanted (green)"], [*wanted.values()])
    scores = _confidences(predicted)
    found = _boxes(predicted, classes, is_target=False)
    good = [int(i) for i in np.argsort(-scores, kind="stable") if i in found and scores[i] >= SCORE]
    drawn = good[:MOST_DRAWN]
    line = f"{len(good)} boxes found (orange)"
    if len(drawn) < len(good):
        line += f", the best {len(drawn)} drawn"
    if len(good) < len(found):
        line += f", {len(found) - len(good)} more that score below {SCORE:g}"
    if len(found) < len(predicted["boxes"]):
        line += f", {len(predicted['boxes']) - len(found)} more that are no numbers"
    lines = [line, f"{len(wanted)} boxes wanted (green)"] if target is not None else [line]
    plain = {
        name: _plain(predicted[name]) for name in ("boxes", "scores", "labels") if name in predicted
    }
    shown = {name: [values[i] for i in drawn] for name, values in plain.items()}
    return Said(lines, [*wanted.values(), *(found[i] for i in drawn)], shown)


def _boxes(of: Mapping[str, Any], classes: Sequence[str], *, is_target: bool) -> dict[int, Box]:
    """By their places; those that are no numbers are left out."""
    corners = np.asarray(of["boxes"], np.float64).reshape(-1, 4)
    scored = "scores" in of and not is_target
    found = {}
    for i, (c, label, score) in enumerate(
        zip(corners, of["labels"], _confidences(of), strict=False)
    ):
        said = _name(label, classes) + (f" {score:.2f}" if scored else "")
        if np.isfinite([*c, score]).all():
            found[i] = Box((float(c[0]), float(c[1]), float(c[2]), float(c[3])), said, is_target)
    return found


def _confidences(of: Mapping[str, Any]) -> Array:
    """The score of each box, 1 where there are none."""
    return np.asarray(of.get("scores", np.ones(len(of["boxes"]))), np.float64)


def _has_boxes(value: Any) -> bool:
    """Corners by box, of one sample; the raw output `boxes` of a network has a batch axis."""
    if not isinstance(value, Mapping) or "boxes" not in value or "labels" not in value:
        return False
    shape = np.shape(value["boxes"])
    return shape == (0,) or (len(shape) == 2 and shape[1] == 4)


# ---- classes


def _classes(scores: Array, target: Any, classes: Sequence[str]) -> Said:
    shares, unit = _shares(scores)
    order = np.argsort(-scores, kind="stable")
    best = [int(i) for i in order[:TOP]]
    lines = [f"{'✓' if i == target else '  '} {_name(i, classes)}  {shares[i]:.1%}" for i in best]
    if target is not None and target not in best:
        rank = (
            f", at rank {int(np.flatnonzero(order == target)[0]) + 1}"
            if 0 <= target < len(scores)
            else ""
        )
        lines.append(f"target: {_name(target, classes)}{rank}")
    lines.append(f"({unit})")
    top = [{"label": i, "name": _name(i, classes), "score": float(scores[i])} for i in best]
    return Said(lines, plain={"top": top, "right": None if target is None else best[0] == target})


def _shares(scores: Array) -> tuple[Array, str]:
    scores = np.nan_to_num(scores.astype(np.float64))
    if scores.min() >= 0 and abs(scores.sum() - 1) < 0.01:
        return scores, "probabilities, as the network gives them"
    powers = np.exp(scores - scores.max())
    return powers / powers.sum(), "softmax of the outputs"


def _scores(predicted: Any) -> Array | None:
    """The first output where it is one row of scores."""
    first = next(iter(predicted.values()), None) if isinstance(predicted, Mapping) else predicted
    if (
        not isinstance(first, np.ndarray)
        or first.dtype.kind != "f"
        or first.size < 2
        or max(first.shape) != first.size
    ):
        return None
    return first.reshape(-1)


def _is_label(target: Any) -> bool:
    return target is None or _is_int(target)


def _is_int(target: Any) -> bool:
    return isinstance(target, int) and not isinstance(target, bool)


def _name(label: Any, classes: Sequence[str]) -> str:
    if _is_int(_plain(label)) and 0 <= label < len(classes):
        return classes[int(label)]
    return str(label)


# ---- anything else


def _is_text(predicted: Any) -> bool:
    return isinstance(predicted, Mapping) and isinstance(predicted.get("text"), str)


def _ranges(outputs: Any) -> list[str]:
    if outputs is None:
        return []
    if not isinstance(outputs, Mapping):
        return [f"predicted: {str(_plain(outputs))[:300]}"]
    return [f"{name}: {_range(value)}" for name, value in outputs.items()]


def _range(value: Any) -> str:
    if not isinstance(value, np.ndarray) or not value.size:
        return str(_plain(value))[:300]
    return (
        f"{list(value.shape)} from {value.min():.4g} to {value.max():.4g}, mean {value.mean():.4g}"
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
