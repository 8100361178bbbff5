"""qpipe plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

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
    SettingsOption,
    SmokeOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qpipe.engine.plan import Plan, Step
    from qpipe.storage.cache import Cache

Action = Literal["compute", "measure", "send", "cached"]

ACTIONS: tuple[Action, ...] = ("compute", "measure", "send", "cached")


def plan(
    recipe: RecipeArgument,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    only: OnlyOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: steps, cache hits, bytes to send."""
    from qpipe.cli.progress_display import open_display
    from qpipe.engine.request import Request, resolve_request
    from qpipe.engine.run import prepare_plan
    from qpipe.engine.scheduler import needed_steps
    from qpipe.storage.results import Store

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
    with open_display() as display:
        resolved = resolve_request(request)
        with Store(db) as store:
            planned = prepare_plan(resolved, store, display.event, display.announce)
    needed = needed_steps(planned, resolved.cache)
    entries = [
        _plan_entry(step, planned, resolved.cache, needed) for step in planned.steps.values()
    ]
    if as_json:
        print_json(entries)
    else:
        _print_entries(entries)
        for model in planned.imported:
            _print_work(model, planned, resolved.cache)


def _plan_entry(step: Step, plan: Plan, cache: Cache, needed: Collection[str]) -> dict[str, Any]:
    """Return a step with what will happen to it, as JSON."""
    will = _planned_action(step, cache, needed)
    return {
        "step": step.id,
        "kind": step.kind,
        "stage": step.call.name if step.call else step.kind,
        "will": will,
        "key": step.key,
        "needs": step.dependencies,
        "bytes": _bytes_to_send(step, plan, cache) if will == "send" else None,
        **step.coordinates,
    }


def _planned_action(step: Step, cache: Cache, needed: Collection[str]) -> Action:
    if step.id not in needed or (step.cacheable and cache.has(step.kind, step.key)):
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


def _print_entries(entries: Sequence[dict[str, Any]]) -> None:
    rows = []
    for entry in entries:
        megabytes = f"{entry['bytes'] / 1e6:.2f}" if entry["bytes"] else ""
        rows.append((entry["step"], entry["kind"], entry["will"], megabytes))
    print_table(("step", "kind", "will", "MB at most"), rows, right=("MB at most",))
    counts = []
    for action in ACTIONS:
        count = len([entry for entry in entries if entry["will"] == action])
        if count:
            counts.append(f"{count} {action}")
    print_text(f"{len(entries)} steps: {', '.join(counts)}")


def _print_work(model: str, plan: Plan, cache: Cache) -> None:
    """Print what share of a network's work would run on integers, and whether that is faster."""
    from qpipe.engine import stage_results
    from qpipe.engine.quick_int8 import planned_int8_time
    from qpipe.quant.coverage import coverage
    from qpipe.start.eight_bits import planned_eight_bits

    folder = plan.steps[plan.imported[model]].result_folder(cache)
    covered = coverage(stage_results.read("import", folder))
    time = planned_int8_time(plan, model, cache) if covered.integer else None
    summary = covered.work_summary(is_timed=time is not None)
    print_text(f"{model} on integers: {summary or 'nothing'}")
    if time is not None:
        print_text(f"{model}: {time}")
    eight_bits = planned_eight_bits(plan, model, cache)
    if eight_bits is not None:
        print_text(f"{model} at 8 bits: {eight_bits}")
