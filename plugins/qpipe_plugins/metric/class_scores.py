"""The scores of classes in a prediction, and the place of a label among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array

NUMERIC_KINDS = "fiub"  # numpy's dtype.kind of floats, integers and booleans


def class_scores(metric: str, prediction: Mapping[str, Array] | Array) -> Array:
    """Return the first output's scores, float64 [C].

    Its shape may be any with at most one axis longer than 1.
    """
    name = "prediction"
    output: Any = prediction
    if isinstance(prediction, Mapping):
        name, output = next(iter(prediction.items()))
    array = np.asarray(output)
    is_numeric = array.dtype.kind in NUMERIC_KINDS
    long_axes = sum(length > 1 for length in array.shape)
    if not is_numeric or long_axes > 1 or not array.size:
        description = list(array.shape) if is_numeric else type(output).__name__
        fix = "it needs one score a class, such as [1, 1000]"
        hint = "set postprocess, or use another metric"
        raise qpipe.StageError(f"metric {metric}: output '{name}' is {description}; {fix} ({hint})")
    return array.astype(np.float64).ravel()


def label_index(metric: str, target: Any, count: int, first: int = 0) -> int:
    """Return the index of a label's score among `count`; `first` is the index of label 0."""
    if not -1 <= first < count:
        reason = f"first is {first}, but there are {count} scores"
        fix = "it is 0 without a background class, -1 where labels count from 1"
        raise qpipe.StageError(f"metric {metric}: {reason}; {fix}")
    lowest = max(0, -first)
    if isinstance(target, bool) or not isinstance(target, int) or target < lowest:
        reason = f"target {target!r} is no label"
        raise qpipe.StageError(f"metric {metric}: {reason}; it is a whole number from {lowest}")
    if target + first >= count:
        after = f" after the first {first}" if first > 0 else ""
        reason = f"label {target}, but the network gives {count} scores"
        fix = f"labels count from {lowest}{after}, so the last is {count - 1 - first}"
        raise qpipe.StageError(f"metric {metric}: {reason}; {fix}")
    return target + first
