"""Share of samples whose label is among the k highest scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.metric.class_scores import class_scores, label_index


def topk(*, k: int = 1, first: int = 0) -> qpipe.Metric:
    """Share of samples whose label (target: a whole number) is among the k highest scores of the first output.

    Labels count from 0. `first` is where the score of label 0 is: 1 for networks whose score 0 is of the background,
    as those of 1001 scores for 1000 labels.
    """
    if k < 1:
        raise qpipe.StageError(f"metric topk: k is {k}; it is 1 or more")

    def contribution(prediction: Mapping[str, Array] | Array, target: Any) -> float:
        scores = class_scores("topk", prediction)
        wanted = label_index("topk", target, len(scores), first)
        if np.isnan(scores).any():
            return 0.0
        # of equal scores the first wins, as argmax has it
        return float(wanted in np.argsort(-scores, kind="stable")[:k])

    return qpipe.Metric(
        f"top{k}", contribution, lambda contributions: float(np.mean(contributions)), unit="share"
    )
