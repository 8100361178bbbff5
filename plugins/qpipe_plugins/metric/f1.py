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
TRUE_POSITIVE = 0
FALSE_POSITIVE = 1
FALSE_NEGATIVE = 2
OUTCOMES = 3


def f1(
    *, average: Average = "macro", threshold: float | None = None, first: int = 0
) -> qpipe.Metric:
    """F1 of classes, 2 TP / (2 TP + FP + FN): mean over classes, of all counts, or of label 1 only.

    `average` is macro (the mean over classes that occur in targets or answers), micro (of the
    counts of all classes) or binary (of label 1 only). The answer is the class with the highest
    score of the first output, and the target is a label as for topk (`first` too). With
    `threshold`, the answer is every class whose score is at least that: of several scores, against
    a target that is a list of as many 0 and 1 (several labels a sample), or of one score, against a
    target that is 0 or 1. Metrics f1_macro, f1_micro; binary: f1.
    """

    def contribution(prediction: Mapping[str, Array] | Array, target: Any) -> Array:
        scores = class_scores("f1", prediction)
        if threshold is None:
            labels = {label_index("f1", target, len(scores), first) - first}
            answers = _best_class(scores, first)
        elif isinstance(target, list):
            labels, answers = _several_labels(scores >= threshold, target)
        else:
            labels, answers = _one_label(scores >= threshold, target)
        if average == "binary":
            labels &= {1}
            answers &= {1}
        return _outcomes(labels, answers)

    name = "f1" if average == "binary" else f"f1_{average}"
    reduce = partial(_f1, macro=average == "macro")
    return qpipe.Metric(name, contribution, reduce, unit="share", first=first)


def _best_class(scores: Array, first: int) -> set[int]:
    """Return the class with the highest score; the background is no answer, nor is NaN."""
    if np.isnan(scores).any():
        return set()
    best = int(scores.argmax()) - first
    return {best} if best >= 0 else set()


def _several_labels(above: Array, target: list[Any]) -> tuple[set[int], set[int]]:
    if len(target) != len(above) or not set(target) <= {0, 1}:
        reason = f"target {target!r} is no list of {len(above)} zeros and ones, one for each score"
        raise qpipe.StageError(f"metric f1: {reason}; for labels leave threshold out")
    return set(np.flatnonzero(target).tolist()), set(np.flatnonzero(above).tolist())


def _one_label(above: Array, target: Any) -> tuple[set[int], set[int]]:
    if len(above) != 1 or target not in (0, 1):
        reason = f"target {target!r} and {len(above)} scores with a threshold"
        fix = "give a list of 0 and 1 for each score, or 0 or 1 for a single one"
        raise qpipe.StageError(f"metric f1: {reason}; {fix}; for labels leave threshold out")
    return {int(target)}, {int(above[0])}


def _outcomes(labels: set[int], answers: set[int]) -> Array:
    """Return the outcomes of one sample, each as 3 * class + outcome."""
    classes_by_outcome = {
        TRUE_POSITIVE: labels & answers,
        FALSE_POSITIVE: answers - labels,
        FALSE_NEGATIVE: labels - answers,
    }
    codes = [
        OUTCOMES * label + outcome
        for outcome, classes in classes_by_outcome.items()
        for label in sorted(classes)
    ]
    return np.array(codes, np.int64)


def _f1(contributions: Sequence[Array], macro: bool) -> float:
    """Return F1 over samples; 0 where there is neither a label nor an answer."""
    counts = np.bincount(np.concatenate(contributions))
    counts = np.pad(counts, (0, -len(counts) % OUTCOMES)).reshape(-1, OUTCOMES)
    if not macro:
        counts = counts.sum(axis=0, keepdims=True)
    counts = counts[counts.any(axis=1)]
    true_positives = counts[:, TRUE_POSITIVE]
    scores = 2 * true_positives / (true_positives + counts.sum(axis=1))
    return float(scores.mean()) if len(scores) else 0.0
