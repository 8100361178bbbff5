"""Share of samples whose label is among the k highest scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.class_scores import class_scores, label_index


def topk(*, k: int = 1, first: int = 0) -> qpipe.Metric:
    """Share of samples whose label (a whole number) is among the k highest scores.

    The scores are those of the first output. Labels count from 0. `first` is the index of label 0
    among the scores: 1 for networks whose score 0 is that of the background, such as those with
    1001 scores for 1000 labels; -1 where labels count from 1.
    """
    if k < 1:
        raise qpipe.StageError(f"metric topk: k is {k}; it is 1 or more")

    def contribution(prediction: Mapping[str, Array] | Array, target: Any) -> float:
        scores = class_scores("topk", prediction)
        index = label_index("topk", target, len(scores), first)
        if np.isnan(scores).any():
            return 0.0
        # of equal scores the first comes first, as with argmax
        best = np.argsort(-scores, kind="stable")[:k]
        return float(index in best)

    return qpipe.Metric(f"top{k}", contribution, _mean, unit="share", first=first)


def _mean(contributions: Sequence[float]) -> float:
    return float(np.mean(contributions))
