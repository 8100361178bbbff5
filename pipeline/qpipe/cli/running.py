"""run, plan and why."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.cli import history, results
from qpipe.cli.display import display
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.engine import run as engine_run
from qpipe.engine.plan import Plan, Step
from qpipe.engine.run import Request, open_session
from qpipe.engine.scheduler import wanted
from qpipe.errors import RecipeError
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store

if TYPE_CHECKING:
    from qpipe.types import Limits


def request(
    recipe: Path,
    settings: Sequence[str] | None,
    device: Sequence[str] | None,
    only: Sequence[str] | None,
    inventory: Path | None,
    db: Path,
    cache: Path,
    smoke: bool,
    new: bool = False,
    retries: int = 2,
    limits: Limits | None = None,
) -> Request:
    """The options of the command line as a request."""
    pairs = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: no '='; write --set NAME=VALUE")
        pairs[name] = value
    return Request(
        recipe,
        pairs,
        device or (),
        only or (),
        inventory,
        db,
        cache,
        new,
        smoke,
        retries,
        limits or {},
    )


def run(asked: Request, as_json: bool) -> None:
    """Run, show progress, end with the table and what to type next."""
    command = shlex.join(
        ["qpipe", *(word for word in sys.argv[1:] if word != "--new")]
    )  # to go on, not afresh
    try:
        with (
            display() as shown
        ):  # before the recipe is read: loading plugins takes seconds on a slow machine
            session = open_session(asked)
            with Store(asked.db) as store:
                finished = engine_run.run(session, store, shown.event, shown.say)
    except KeyboardInterrupt:
        print(f"\nqpipe: interrupted; what is done is kept, go on with: {command}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    with Store(asked.db) as store:
        if as_json:
            print_json(results.read(store, finished.run).rows)
        else:
            results.print_run(store, finished, asked, command)
    if finished.state != "done":
        sys.exit(1)


def plan(asked: Request, as_json: bool) -> None:
    """Print the steps with what will happen to each."""
    with display() as shown:
        session = open_session(asked)
        with Store(asked.db) as store:
            planned = engine_run.prepare(session, store, shown.event)
    work = wanted(planned, session.cache)
    entries = [_entry(step, planned, session.cache, work) for step in planned.steps.values()]
    if as_json:
        print_json(entries)
        return
    rows = [
        (e["step"], e["kind"], e["will"], f"{e['bytes'] / 1e6:.2f}" if e["bytes"] else "")
        for e in entries
    ]
    print_table(("step", "kind", "will", "MB at most"), rows, right=("MB at most",))
    counts = {
        will: sum(e["will"] == will for e in entries)
        for will in ("compute", "measure", "send", "cached")
    }
    print_text(
        f"{len(entries)} steps: " + ", ".join(f"{n} {will}" for will, n in counts.items() if n)
    )


def _entry(step: Step, planned: Plan, cache: Cache, work: set[str]) -> dict[str, Any]:
    if step.id not in work or (step.cacheable and cache.has(step.kind, step.key)):
        will = "cached"
    else:
        will = "compute" if not step.device else "measure" if step.kind == "measure" else "send"
    return {
        "step": step.id,
        "kind": step.kind,
        "stage": step.call.name if step.call else step.kind,
        "will": will,
        "key": step.key,
        "needs": step.dependencies,
        "bytes": _bytes(step, planned, cache) if will == "send" else None,
        **step.coordinates,
    }


def _bytes(step: Step, planned: Plan, cache: Cache) -> int | None:
    """What would travel if nothing of it were there, where that is known already."""
    need = planned.steps[next(iter(step.needs.values()))]
    if not cache.has(need.kind, need.key):
        return None
    folder = cache.folder(need.kind, need.key) / "value"
    folder = folder / "evaluation" if need.kind == "samples" else folder
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def why(step: str, run: str | None, db: Path, cache: Path, as_json: bool) -> None:
    """Compare a step's fields now with those it had in a run."""
    with results.open_results(db) as store:
        row = results.find_run(store, run)
        before = {entry["step"]: entry for entry in store.steps(row["id"])}
        session = open_session(_request_of(row, db, cache))
        planned = session.offline_plan(store)
    if step not in planned.steps:
        raise history.no_step(row["recipe"], step, planned.steps, "qpipe plan RECIPE")
    now = planned.steps[step]
    old = before.get(step)
    changes = compare(old["key_fields"] if old else {}, dict(now.fields))
    hit = now.cacheable and session.cache.has(now.kind, now.key)
    if as_json:
        print_json(
            {
                "step": step,
                "cached": hit,
                "cacheable": now.cacheable,
                "key": now.key,
                "changed": changes,
            }
        )
        return
    failed = old["error"] if old and old["state"] == "failed" else None
    print_text(f"{step}: {_verdict(now, hit, bool(old), changes, row['id'], failed)}")
    if changes:
        print_table(
            ("field", f"in {row['id']}", "now"),
            [(c["field"], c["before"], c["now"]) for c in changes],
        )


def _verdict(
    step: Step, hit: bool, ran: bool, changes: list[dict[str, Any]], run: str, failed: str | None
) -> str:
    if not step.cacheable:
        return (
            "measured anew in every run: it depends on the moment"
            if step.volatile
            else "sends what is not there"
        )
    if hit:
        return f"hit; its result under key {step.key[:12]} is used"
    if not ran:
        return "miss; it was not part of that run"
    if changes:
        return "miss; these fields changed"
    if failed:
        return f"miss; it failed in {run}: {failed}"
    return f"miss; the same as in {run}, but not in the cache"


def compare(before: Any, now: Any, path: str = "") -> list[dict[str, Any]]:
    """The fields that differ, by their path."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [
            c
            for n in names
            for c in compare(before.get(n), now.get(n), f"{path}.{n}" if path else n)
        ]
    return [] if before == now else [{"field": path, "before": _short(before), "now": _short(now)}]


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def _request_of(row: dict[str, Any], db: Path, cache: Path) -> Request:
    asked = row["request"]
    return Request(
        Path(row["recipe_path"]),
        asked["settings"],
        asked["devices"],
        asked["only"],
        Path(asked["inventory"]) if asked["inventory"] else None,
        db,
        cache,
        smoke=asked["smoke"],
    )
