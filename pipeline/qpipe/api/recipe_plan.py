"""The steps that a run of a recipe would have, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from qpipe.engine.scheduler import needed_steps
from qpipe.report.text_table import TextTable

if TYPE_CHECKING:
    from qpipe.engine.plan import Plan, Step
    from qpipe.storage.cache import Cache

Action = Literal["compute", "measure", "send", "cached"]

ACTIONS: tuple[Action, ...] = ("compute", "measure", "send", "cached")
COLUMNS = ("step", "kind", "will", "MB at most")


@dataclass(frozen=True)
class PlannedStep:
    """A step of a plan."""

    name: str
    kind: str
    stage: str
    will: Action
    key: str  # of its result in the cache
    needs: Sequence[str]  # the steps that it waits for
    bytes: int | None  # to a device that has none of them; None where not known, or not sent
    coordinates: Mapping[str, str]  # model, scheme, build and device, where it has them

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe plan --json` prints it."""
        return {
            "step": self.name,
            "kind": self.kind,
            "stage": self.stage,
            "will": self.will,
            "key": self.key,
            "needs": self.needs,
            "bytes": self.bytes,
            **self.coordinates,
        }


class RecipePlan(Sequence[PlannedStep]):
    """The steps of a run. A notebook shows them as a table."""

    def __init__(self, plan: Plan, cache: Cache) -> None:
        self._plan = plan
        self._cache = cache
        needed = needed_steps(plan, cache)
        self._steps = [
            _planned_step(step, plan, cache, is_needed=step.id in needed)
            for step in plan.steps.values()
        ]

    @overload
    def __getitem__(self, index: int) -> PlannedStep: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedStep]: ...
    def __getitem__(self, index: int | slice) -> PlannedStep | list[PlannedStep]:
        return self._steps[index]

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def table(self) -> TextTable:
        """The steps as `qpipe plan` prints them."""
        rows = []
        for step in self:
            megabytes = f"{step.bytes / 1e6:.2f}" if step.bytes else ""
            rows.append((step.name, step.kind, step.will, megabytes))
        counts = []
        for action in ACTIONS:
            count = len([step for step in self if step.will == action])
            if count:
                counts.append(f"{count} {action}")
        lines = [f"{len(self)} steps: {', '.join(counts)}"]
        return TextTable("", COLUMNS, rows, right=COLUMNS[-1:], lines=lines)

    def forecast(self) -> list[str]:
        """Return what share of each network runs on integers, and whether that is faster here.

        It tries 8 bits on this machine, in some seconds.
        """
        lines = []
        for model in self._plan.imported:
            lines += _forecast(model, self._plan, self._cache)
        return lines

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _planned_step(step: Step, plan: Plan, cache: Cache, *, is_needed: bool) -> PlannedStep:
    action = _action(step, cache, is_needed=is_needed)
    return PlannedStep(
        step.id,
        step.kind,
        step.stage_name,
        action,
        step.key,
        step.dependencies,
        _bytes_to_send(step, plan, cache) if action == "send" else None,
        step.coordinates,
    )


def _action(step: Step, cache: Cache, *, is_needed: bool) -> Action:
    if not is_needed or (step.cacheable and cache.has(step.kind, step.key)):
        return "cached"
    if not step.device:
        return "compute"
    return "measure" if step.kind == "measure" else "send"


def _bytes_to_send(step: Step, plan: Plan, cache: Cache) -> int | None:
    """Return the bytes to send to a device that has none of them; None where not known yet."""
    first_need = next(iter(step.needs.values()))
    source = plan.steps[first_need]
    if not cache.has(source.kind, source.key):
        return None
    folder = cache.value_folder(source.kind, source.key)
    if source.kind == "samples":
        folder /= "evaluation"
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _forecast(model: str, plan: Plan, cache: Cache) -> list[str]:
    from qpipe.engine import stage_results
    from qpipe.engine.quick_int8 import planned_int8_time
    from qpipe.quant.coverage import coverage
    from qpipe.start.eight_bits import planned_eight_bits

    folder = plan.steps[plan.imported[model]].result_folder(cache)
    covered = coverage(stage_results.read("import", folder))
    time = planned_int8_time(plan, model, cache) if covered.integer else None
    summary = covered.work_summary(is_timed=time is not None)
    lines = [f"{model} on integers: {summary or 'nothing'}"]
    if time is not None:
        lines.append(f"{model}: {time}")
    eight_bits = planned_eight_bits(plan, model, cache)
    if eight_bits is not None:
        lines.append(f"{model} at 8 bits: {eight_bits}")
    return lines
