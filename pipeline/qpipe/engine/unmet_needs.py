"""What each step still waits for, and which steps have to be looked at because something ended."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping

from qpipe.engine.plan import Plan
from qpipe.storage.rows import StepState


class UnmetNeeds:
    """Counts, for each step of a plan, the steps that it waits for."""

    def __init__(self, plan: Plan, states: Mapping[str, StepState]) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.dependents: defaultdict[str, list[str]] = defaultdict(list)
        self.changed = OrderedDict.fromkeys(plan.steps)  # steps to look at; all of them at first
        for step in plan.steps.values():
            for need in step.dependencies:
                if states.get(need) == "pending":
                    self.counts[step.id] += 1
                    self.dependents[need].append(step.id)

    def are_met(self, step: str) -> bool:
        """Return whether all that a step waits for has ended."""
        return not self.counts[step]

    def note_end(self, step: str, *, is_lost: bool) -> None:
        """Note that a step has ended, which may leave others with nothing to wait for.

        What depends on it is looked at now where it is lost, or where it is a gate: a result in the
        cache counts once its gates have ended.
        """
        for dependent in self.dependents.pop(step, ()):
            self.counts[dependent] -= 1
            is_gate = step in self.plan.steps[dependent].after
            if is_lost or is_gate or self.are_met(dependent):
                self.look_at([dependent])

    def look_at(self, steps: Iterable[str]) -> None:
        """Have these steps looked at, after those that are to be looked at already."""
        self.changed.update(dict.fromkeys(steps))

    def take_changed(self) -> str | None:
        """Return the next step to look at; None where there is none."""
        return self.changed.popitem(last=False)[0] if self.changed else None
