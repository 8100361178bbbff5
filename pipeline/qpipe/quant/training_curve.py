"""How training went, which a network carries along: its scores on held-out samples, by step.

A stage that trains leaves it with the network; a run keeps it, and its report draws it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import onnx_ir as ir

METADATA = "qpipe.training"

# the step, the mean loss since the score before (None at the start), and the score in dB
Score = tuple[int, float | None, float]


def set_training_curve(model: ir.Model, scores: Sequence[Score]) -> None:
    """Leave with a network how its training went; a score that is not finite is left out."""
    finite = [score for score in scores if math.isfinite(score[2])]
    rows = [(step, _finite(loss), decibels) for step, loss, decibels in finite]
    model.metadata_props[METADATA] = json.dumps(rows)


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def training_curve(model: ir.Model) -> str | None:
    """Return how a network's training went, as JSON; None for one that was not trained."""
    return model.metadata_props.get(METADATA)
