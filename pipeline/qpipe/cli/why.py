"""qpipe why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    JsonOption,
    OnlyOption,
    RecipeArgument,
    RecipeDevicesOption,
    RecipeInventoryOption,
    RunOption,
    SettingsOption,
    SmokeOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.cli.unknown_steps import unknown_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qpipe.engine.plan import Step
    from qpipe.storage.rows import StepRow

DIGEST_LENGTH = 64  # of a sha256 in hexadecimal
SHORT_DIGEST_LENGTH = 12


class FieldChange(TypedDict):
    """A field of a key that is not what it was."""

    field: str  # its path, joined by dots
    before: Any
    now: Any


def why(
    recipe: RecipeArgument,
    step: Annotated[
        str,
        typer.Argument(
            help="The step, as `qpipe plan` and `qpipe show` name it.", show_default=False
        ),
    ],
    run: RunOption = None,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    only: OnlyOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain field by field why a step is a cache hit or will be computed.

    The recipe as it is now is compared with what a run recorded.
    """
    from qpipe.engine.request import Request, resolve_request

    request = Request(
        recipe=recipe,
        settings=parse_settings(settings),
        devices=device or (),
        only=only or (),
        inventory=inventory,
        db=db,
        cache=cache,
        smoke=smoke,
    )
    with open_results(db) as store:
        run_row = find_run(store, run)
        recorded_steps = {row["step"]: row for row in store.steps(run_row["id"])}
        resolved = resolve_request(request)
        plan = resolved.offline_plan(store)
    if step not in plan.steps:
        raise unknown_step(
            step, plan.steps, where=resolved.recipe.name, list_command="qpipe plan RECIPE"
        )
    planned = plan.steps[step]
    recorded = recorded_steps.get(step)
    recorded_fields = (recorded["key_fields"] or {}) if recorded else {}
    changes = changed_fields(recorded_fields, planned.fields)
    is_hit = planned.cacheable and resolved.cache.has(planned.kind, planned.key)
    if as_json:
        print_json(
            {
                "step": step,
                "cached": is_hit,
                "cacheable": planned.cacheable,
                "key": planned.key,
                "changed": changes,
            }
        )
        return
    run_id = run_row["id"]
    explanation = _explain(
        planned, recorded, is_hit=is_hit, has_changes=bool(changes), run_id=run_id
    )
    print_text(f"{step}: {explanation}")
    _print_changes(changes, run_id)


def _print_changes(changes: Sequence[FieldChange], run_id: str) -> None:
    if changes:
        rows = [(change["field"], change["before"], change["now"]) for change in changes]
        print_table(("field", f"in {run_id}", "now"), rows)


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
