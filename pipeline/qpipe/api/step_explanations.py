"""Why a step of a recipe is taken from the cache, or is computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from qpipe.report.text_table import TextTable

if TYPE_CHECKING:
    from qpipe.engine.plan import Step
    from qpipe.storage.cache import Cache
    from qpipe.storage.rows import StepRow

DIGEST_LENGTH = 64  # of a sha256 in hexadecimal
SHORT_DIGEST_LENGTH = 12


class FieldChange(TypedDict):
    """A field of a key that is not what it was."""

    field: str  # its path, joined by dots
    before: Any
    now: Any


@dataclass(frozen=True)
class StepExplanation:
    """Why a step is a cache hit or will be computed, against what a run recorded of it."""

    step: str
    run: str
    is_cached: bool
    is_cacheable: bool
    key: str  # of its result in the cache
    changes: Sequence[FieldChange]  # of what the key is made of
    reason: str

    @property
    def table(self) -> TextTable:
        """The fields that changed, below the reason."""
        rows = [
            (change["field"], _cell(change["before"]), _cell(change["now"]))
            for change in self.changes
        ]
        return TextTable(f"{self.step}: {self.reason}", ("field", f"in {self.run}", "now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe why --json` prints it."""
        return {
            "step": self.step,
            "cached": self.is_cached,
            "cacheable": self.is_cacheable,
            "key": self.key,
            "changed": self.changes,
        }

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def explain_step(
    planned: Step, recorded: StepRow | None, cache: Cache, *, run: str
) -> StepExplanation:
    """Explain a planned step; `recorded` is what a run has of it."""
    recorded_fields = (recorded["key_fields"] or {}) if recorded else {}
    changes = changed_fields(recorded_fields, planned.fields)
    is_hit = planned.cacheable and cache.has(planned.kind, planned.key)
    reason = _explain(planned, recorded, is_hit=is_hit, has_changes=bool(changes), run_id=run)
    return StepExplanation(planned.id, run, is_hit, planned.cacheable, planned.key, changes, reason)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _explain(
    step: Step, recorded: StepRow | None, *, is_hit: bool, has_changes: bool, run_id: str
) -> str:
    """Return why a step is a hit or a miss; `recorded` is the step in the run."""
    if step.volatile:
        return "measured again in every run: the result depends on the moment"
    if not step.cacheable:
        return "not cached; it sends what the device does not have"
    if is_hit:
        return f"hit; the result under key {step.key[:SHORT_DIGEST_LENGTH]} is used"
    if recorded is None:
        return "miss; the step was not part of that run"
    if has_changes:
        return "miss; these fields changed"
    if recorded["state"] == "failed" and recorded["error"]:
        return f"miss; the step failed in {run_id}: {recorded['error']}"
    return f"miss; the same as in {run_id}, but not in the cache"


def changed_fields(
    before: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> list[FieldChange]:
    """Return the fields that differ, also in nested maps."""
    changes: list[FieldChange] = []
    for name in sorted({*before, *now}):
        field = f"{path}.{name}" if path else name
        old_value = before.get(name)
        new_value = now.get(name)
        if isinstance(old_value, dict) and isinstance(new_value, dict):
            changes += changed_fields(old_value, new_value, field)
        elif old_value != new_value:
            changes.append(
                {"field": field, "before": _shorten(old_value), "now": _shorten(new_value)}
            )
    return changes


def _shorten(value: Any) -> Any:
    """Return a digest shortened, anything else unchanged."""
    is_digest = isinstance(value, str) and len(value) == DIGEST_LENGTH
    return value[:SHORT_DIGEST_LENGTH] if is_digest else value
