"""F1 score of classes: the harmonic mean of precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.class_scores import class_scores, label_index

Average = Literal["macro", "micro", "binary"]
TRUE, FALSE, MISSED = range(3)


def f1(
    *, average: Average = "macro", threshold: float | None = None, first: int = 0
) -> qpipe.Metric:
    """F1 of classes, 2 TP / (2 TP + FP + FN): macro their mean, micro of all counts, binary of label 1 alone.

    The answer is the highest score of the first output, its target a label as topk has it (`first` too). With
    `threshold` it is every score of at least that: of several scores, against a target that is a list of as many 0 and
    1 (several labels a sample), or of one score, against a target that is 0 or 1. Macro is over the classes that
    occur, in targets or in answers. Metrics f1_macro, f1_micro; binary: f1.
    """

    def contribution(prediction: Mapping[str, Array] | Array, target: Any) -> Array:
        scores = class_scores("f1", prediction)
        if threshold is None:
            wanted = {label_index("f1", target, len(scores), first) - first}
            best = -1 if np.isnan(scores).any() else int(scores.argmax()) - first
            answered = {best} if best >= 0 else set()  # the background is no answer
        elif isinstance(target, list):
            wanted, answered = _several(scores >= threshold, target)
        else:
            wanted, answered = _one(scores >= threshold, target)
        if average == "binary":
            wanted = wanted & {1}
            answered = answered & {1}
        return _counted(wanted, answered)

    name = "f1" if average == "binary" else f"f1_{average}"
    return qpipe.Metric(name, contribution, partial(_f1, macro=average == "macro"), unit="share")


def _several(above: Array, target: list[Any]) -> tuple[set[int], set[int]]:
    if len(target) != len(above) or not set(target) <= {0, 1}:
        reason = f"target {target!r} is no list of {len(above)} zeros and ones, one for each score"
        raise qpipe.StageError(f"metric f1: {reason}; for labels leave threshold out")
    return set(np.flatnonzero(target).tolist()), set(np.flatnonzero(above).tolist())


def _one(above: Array, target: Any) -> tuple[set[int], set[int]]:
    if len(above) != 1 or target not in (0, 1):
        reason = f"target {target!r} and {len(above)} scores with a threshold"
        right = "give a list of 0 and 1 for each score, or 0 or 1 for a single one; for labels leave threshold out"
        raise qpipe.StageError(f"metric f1: {reason}; {right}")
    return {int(target)}, {int(above[0])}


def _counted(wanted: set[int], answered: set[int]) -> Array:
    """What counts in one sample: 3 * class + TRUE, FALSE or MISSED."""
    parts = {TRUE: wanted & answered, FALSE: answered - wanted, MISSED: wanted - answered}
    return np.array(
        [3 * label + kind for kind, labels in parts.items() for label in sorted(labels)], np.int64
    )


def _f1(contributions: Sequence[Array], macro: bool) -> float:
    """0 where nothing was wanted and nothing answered."""
    counts = np.bincount(np.concatenate(contributions))
    counts = np.pad(counts, (0, -len(counts) % 3)).reshape(-1, 3)
    if not macro:
        counts = counts.sum(axis=0, keepdims=True)
    counts = counts[counts.any(axis=1)]
    scores = 2 * counts[:, TRUE] / (counts[:, TRUE] + counts.sum(axis=1))
    return float(scores.mean()) if len(scores) else 0.0
