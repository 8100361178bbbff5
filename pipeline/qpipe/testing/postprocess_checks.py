"""Checks of postprocess stages: a prediction of the outputs for one sample."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject
from qpipe.types import Array

FIX = "give some: qpipe.testing.checks(..., outputs={name: array})"


def predictions_are_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same prediction of the same outputs, and outputs that stay as they are."""
    outputs = _outputs(subject)
    before = copy.deepcopy(outputs)
    first = _predict(subject, outputs)
    _require_equal(before, outputs, "it changes the outputs that it is given")
    second = _predict(subject, outputs)
    _require_equal(first, second, "two calls with the same outputs give different predictions")
    return type(first).__name__


def _predict(subject: Subject, outputs: Mapping[str, Array]) -> Any:
    return subject.stage.function(outputs, **subject.call().resolved())


def _outputs(subject: Subject) -> Mapping[str, Array]:
    """Return the outputs given, or the first usual ones that the stage takes."""
    subject.call()
    if subject.outputs is not None:
        return subject.outputs
    random = np.random.default_rng(0)
    reasons = []
    for shape in ((1, 10), (1, 20, 12), (1, 8, 6, 6)):
        outputs = {"scores": random.random(shape, np.float32)}
        try:
            _predict(subject, outputs)
        except Exception as error:  # noqa: BLE001  (foreign code: it takes other outputs)
            reasons.append(str(error))
        else:
            return outputs
    raise NotApplicableError(f"it takes no usual outputs ({reasons[0]}); {FIX}")


def _require_equal(first: Any, second: Any, problem: str) -> None:
    try:
        np.testing.assert_equal(first, second)
    except AssertionError as error:
        raise NonconformityError(problem) from error
