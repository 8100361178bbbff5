"""Share of samples whose label is among the k highest scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import qpipe
from qpipe.types import Array


def topk(*, k: int = 1) -> qpipe.Metric:
    """Share of samples whose label (target: a whole number) is among the k highest scores of the first output."""

    def contribution(prediction: Mapping[str, Array] | Array, target: int) -> float:
        scores = _first(prediction)
        if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(scores):
            last = len(scores) - 1
            raise qpipe.StageError(f"metric topk: target {target!r} is no label; it is a number from 0 to {last}")
        if np.isnan(scores).any():
            return 0.0
        # of equal scores the first wins, as argmax has it
        return float(target in np.argsort(-scores, kind="stable")[:k])

    return qpipe.Metric(f"top{k}", contribution, lambda contributions: float(np.mean(contributions)))


def _first(prediction: Mapping[str, Array] | Array) -> Array:
    array = next(iter(prediction.values())) if isinstance(prediction, Mapping) else prediction
    return np.asarray(array, np.float64).ravel()
