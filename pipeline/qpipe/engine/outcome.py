"""How the steps of a run ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from qpipe.engine.plan import Plan
from qpipe.errors import Failure, QpipeError
from qpipe.storage.rows import StepState
from qpipe.types import Measurement


@dataclass
class Outcome:
    """The state of each step of a plan, and what became of it; all are keyed by step."""

    states: dict[str, StepState]
    errors: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)  # the type of each error
    measurements: dict[str, Sequence[Measurement]] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The steps that failed; those skipped because of them are not among them."""
        return [step for step, state in self.states.items() if state == "failed"]

    @property
    def state(self) -> Literal["done", "partial", "failed"]:
        """The state of the whole: partial where something was measured and something failed."""
        if not self.failed:
            return "done"
        if any(self.measurements.values()):
            return "partial"
        return "failed"

    def add_failure(self, step: str, error: QpipeError) -> None:
        """Note that a step failed for good."""
        self.states[step] = "failed"
        self.errors[step] = str(error)
        self.failures[step] = error.failure


def first_outcome(plan: Plan, earlier: Outcome | None = None) -> Outcome:
    """Return the outcome of a plan of which nothing was carried out yet.

    What ended in an earlier part of the same run stays as it is: a step that failed there is not
    tried again.
    """
    outcome = Outcome(dict.fromkeys(plan.steps, "pending"))
    if earlier is None:
        return outcome
    for step in plan.steps:
        state = earlier.states.get(step)
        if state is not None and state in ("done", "cached", "failed"):
            outcome.states[step] = state
        if step in earlier.errors:
            outcome.errors[step] = earlier.errors[step]
            outcome.failures[step] = earlier.failures[step]
    return outcome
