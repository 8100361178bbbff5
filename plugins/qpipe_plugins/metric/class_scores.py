"""The scores of classes in a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array


def class_scores(metric: str, prediction: Mapping[str, Array] | Array) -> Array:
    """The first output's scores in a row; its shape may be any with no more than one axis longer than 1."""
    name, given = (
        next(iter(prediction.items()))
        if isinstance(prediction, Mapping)
        else ("prediction", prediction)
    )
    array = np.asarray(given)
    if (
        array.dtype.kind not in "fiub"
        or sum(length > 1 for length in array.shape) > 1
        or not array.size
    ):
        what = list(array.shape) if array.dtype.kind in "fiub" else type(given).__name__
        right = (
            "it needs one score a class, such as [1, 1000] (set postprocess, or use another metric)"
        )
        raise qpipe.StageError(f"metric {metric}: output '{name}' is {what}; {right}")
    return array.astype(np.float64).ravel()


def label_index(metric: str, target: Any, count: int, first: int = 0) -> int:
    """Where a label's score is among `count`; `first` is where that of label 0 is."""
    if not 0 <= first < count:
        raise qpipe.StageError(
            f"metric {metric}: first is {first}, but there are {count} scores; 0 where no background is"
        )
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise qpipe.StageError(
            f"metric {metric}: target {target!r} is no label; it is a whole number from 0"
        )
    if target + first >= count:
        behind = f" behind the first {first}" if first else ""
        reason = f"label {target} but the network gives {count} scores; labels count from 0{behind}"
        raise qpipe.StageError(f"metric {metric}: {reason}, so the last is {count - 1 - first}")
    return target + first
