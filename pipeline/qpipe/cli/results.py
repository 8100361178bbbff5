"""pareto, export, runs and show: what the store knows, as tables and JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qpipe.cache import Cache
from qpipe.cli.noting import noted
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.document import shown
from qpipe.errors import QpipeError, RecipeError, suggest
from qpipe.execute import Finished, Request
from qpipe.store import Store

if TYPE_CHECKING:
    from qpipe.compare.recommend import Limits

Row = dict[str, Any]

SMOKE = "a smoke run: that all works is what it shows; its numbers are of too few samples to decide by"
DOMINATED = "(dominated: another is better in an objective and worse in none, beyond noise and a small margin)"
# what is always worth seeing, after the objectives of the recipe and its scores
ALWAYS = ("latency_ms", "latency_ratio", "size_mb", "memory_mb", "agreement", "sqnr_db", "effective_bits", "int8_nodes")


def open_results(db: Path) -> Store:
    """The database to read; QpipeError where there is none, for reading makes none."""
    if db == Request.db and not db.exists():
        raise _no_run(db)
    return Store(db, create=False)


def _no_run(db: Path) -> QpipeError:
    return QpipeError(f"{shown(db)}: no run yet; start one with: qpipe run RECIPE")


def find_run(store: Store, run: str | None) -> Row:
    """The run by id, or the newest; QpipeError where there is none."""
    if run:
        return store.run(run)
    newest = store.latest_run()
    if newest is None:
        raise _no_run(store.path)
    return newest


def rows(store: Store, run: str) -> list[Row]:
    """The rows of `qpipe pareto --json`."""
    from qpipe.compare.pareto import pareto_rows

    return pareto_rows(store, run)


def limits(least: Iterable[str], most: Iterable[str]) -> Limits:
    """What --min and --max say, as `METRIC=VALUE`; RecipeError where one says nothing."""
    from qpipe.recipe import part_of

    found: dict[str, tuple[Literal["<", "<=", ">", ">="], float]] = {}
    for option, sign, given in (("--min", ">=", least), ("--max", "<=", most)):
        for text in given:
            metric, _, value = text.partition("=")
            bound = part_of(value)
            if not metric or not math.isfinite(bound):
                raise RecipeError(f"{option} {text}: no number; write {option} METRIC=VALUE")
            if metric in found:
                raise RecipeError(f"{option} {text}: '{metric}' has a limit already; give one")
            found[metric] = (sign, bound)  # type: ignore[assignment]
    return found


def remembered_limits(run: Row) -> Limits:
    """Those that the run was asked to keep."""
    limits = (run["request"] or {}).get("limits") or {}
    return {metric: (sign, float(bound)) for metric, (sign, bound) in limits.items()}


def _check_measured(asked: Limits, own: list[Row]) -> None:
    from qpipe.compare.wording import is_share

    measured = {metric for row in own for metric in row["metrics"]}
    for metric, (sign, bound) in asked.items():
        option = "--min" if sign == ">=" else "--max"
        if metric not in measured:
            raise QpipeError(f"{option} {metric}: it was not measured; {suggest(metric, measured)}")
        if bound > 1 and is_share(metric, own):
            raise QpipeError(f"{option} {metric}={bound:g}: it is a share; write {bound:g}% or {bound / 100:g}")


def pareto(run: str | None, device: str | None, asked: Limits, db: Path, as_json: bool) -> None:
    """Print a run's table, or its rows."""
    from qpipe.compare.recommend import keeps

    with open_results(db) as store:
        found = find_run(store, run)
        own = rows(store, found["id"])
        devices = sorted({row["device"] for row in own})
        if device and device not in devices:
            raise QpipeError(f"run {found['id']}: no device '{device}'; {suggest(device, devices)}")
        own = [row for row in own if device in (None, row["device"])]
        _check_measured(asked, own)
        asked = asked or remembered_limits(found)
        if as_json:
            print_json([{**row, "within_limits": keeps(row, asked)} for row in own] if asked else own)
        else:
            print_pareto(store, found["id"], own, asked)
            if (found["request"] or {}).get("smoke"):
                print_text(SMOKE)
            print_text(f"\nrun {found['id']} of {found['recipe']}: {found['state']}")


def print_pareto(store: Store, run: str, own: list[Row], asked: Limits | None = None) -> None:
    """A table per model and device, each with its sentence, which keeps to what is asked."""
    from qpipe.compare.pareto import objectives_of
    from qpipe.compare.recommend import recommend
    from qpipe.compare.wording import cell, heading, is_share, place

    over = objectives_of(store, run)
    if not own:
        print_text("nothing was measured")
    for (model, device), group in groups(own).items():
        objectives = over[model, device]
        metrics = columns(group, objectives)
        front = f"  (* = on the Pareto front of {', '.join(objectives)})" if objectives else ""
        print_text(f"\n{place(group)}{front}")
        several = len({row["build"] for row in group}) > 1
        table = [
            ["*" if row["on_front"] else "", f"{row['scheme']}{' ' + row['build'] if several else ''}"]
            + [cell(row["metrics"].get(metric), is_share(metric, group)) for metric in metrics]
            + [_verdict(row, bool(objectives))]
            for row in group
        ]
        headings = [*(heading(metric, group) for metric in metrics), "verdict"]
        spare = [headings[-1], *headings[len(objectives) : -1]]
        left_out = print_table(["", "scheme", *headings], table, headings[:-1], spare)
        if left_out:
            print_text(f"(too narrow for {', '.join(left_out)}: widen the terminal, or use --json)")
        if any(row["reason"].startswith("dominated") for row in group):
            print_text(DOMINATED)
        for line in noted(group):
            print_text(line)
        missing = [metric for metric in store.run(run)["objectives"] if metric not in objectives]
        print_text("\n" + (unmeasured(missing, group) if missing else "\n".join(recommend(group, objectives, asked))))


def _verdict(row: Row, judged: bool) -> str:
    """What a row is worth, in words."""
    tied = f", tied with {', '.join(row['ties'])}" if row["ties"] else ""
    return row["reason"] or (f"on the front{tied}" if row["on_front"] and judged else tied.removeprefix(", "))


def unmeasured(missing: list[str], group: list[Row]) -> str:
    """Why nothing is recommended: what is best in the rest may be the worst in what was not measured."""
    there = sorted({metric for row in group for metric in row["metrics"]})
    names = f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'}"
    return f"nothing is recommended: {names} not measured; measure it, or set pareto to some of {', '.join(there)}"


def groups(own: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by model and device."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in own:
        found.setdefault((row["model"], row["device"]), []).append(row)
    return found


def columns(group: list[Row], objectives: Iterable[str]) -> list[str]:
    """The metrics to show: objectives, scores, then what is always worth seeing."""
    from qpipe.compare.wording import is_share

    measured = dict.fromkeys(metric for row in group for metric in row["metrics"])
    scores = [metric for metric in measured if is_share(metric, group)]
    return [m for m in dict.fromkeys([*objectives, *scores, *ALWAYS]) if m in measured]


def print_run(store: Store, finished: Finished, asked: Request, command: str) -> None:
    """The end of a run: table, recommendation, where it all lies, what to type next."""
    own = rows(store, finished.run)
    print_pareto(store, finished.run, own, asked.limits)
    if asked.smoke:
        print_text(SMOKE)
    states = finished.outcome.states
    cached = sum(state == "cached" for state in states.values())
    steps = f"{cached} of {len(states)} steps cached"
    print_text(f"\nrun {finished.run}: {finished.state} in {finished.seconds:.0f} s, {steps}")
    for reason in finished.unreachable.values():
        print_text(f"  {reason}")
    for device, reason in finished.bad.items():
        skipped = sum(states[step.id] == "skipped" for step in finished.plan.steps.values() if step.device == device)
        print_text(f"  {reason} ({skipped} of its steps were skipped)")
    tried = {row["step"]: row["attempts"] or 0 for row in store.steps(finished.run)}
    for step in finished.outcome.failed:
        attempts = f", attempt {tried[step]}" if tried.get(step, 0) > 1 else ""
        failure = finished.outcome.failures.get(step, "bug")
        print_text(f"  failed: {step}: {finished.outcome.errors[step]} ({failure}{attempts})")
    print_text(f"results: {shown(asked.db)}   cache: {shown(asked.cache)}")
    if finished.state != "done":
        cleared = "".join(f"{shlex.join(['qpipe', 'devices', 'clear', device])} && " for device in finished.bad)
        print_text(f"go on with: {cleared}{command}")
    else:
        print_text(_next(store, finished.run, own, asked))


def _next(store: Store, run: str, own: list[Row], asked: Request) -> str:
    """What to type after a run that is done: the export of the first recommendation, or all numbers."""
    from qpipe.compare.pareto import objectives_of
    from qpipe.compare.recommend import choose

    over = objectives_of(store, run)
    chosen = (choose(group, over[place], asked.limits) for place, group in groups(own).items())
    best = next((row for row in chosen if row), None)
    db = ["--db", shown(asked.db)] if asked.db != Request.db else []
    cache = ["--cache", shown(asked.cache)] if asked.cache != Request.cache else []
    # a run that went on where it was cut may be older than another, which is then the one that commands take
    own_run = ["--run", run] if find_run(store, None)["id"] != run else []
    numbers = shlex.join(["qpipe", "pareto", "--json", *own_run, *db])
    if best is None:
        return f"next: {numbers}"
    handed = shlex.join(["qpipe", "export", *_pick(best, own), "-o", "shipped", *own_run, *db, *cache])
    return f"next: {handed}   or: {numbers}"


def _pick(row: Mapping[str, Any], own: list[Row]) -> list[str]:
    """The options of `qpipe export` that tell a row from all others."""
    words, left = [], own
    for name in ("device", "scheme", "model", "build"):
        if name in ("device", "scheme") or len({other[name] for other in left}) > 1:
            words += [f"--{name}", row[name]]
        left = [other for other in left if other[name] == row[name]]
    return words


def export(
    device: str, scheme: str, out: Path, model: str | None, build: str | None, run: str | None, db: Path, cache: Path
) -> None:
    """Write the bundle and say what is in it."""
    from qpipe.handover import hand_over

    wanted = {"device": device, "scheme": scheme, "model": model, "build": build}
    with open_results(db) as store, ExitStack() as kept:
        id_, folder = find_run(store, run)["id"], Cache(cache)
        if cache.is_dir():
            kept.enter_context(folder.kept((step["kind"], step["key"]) for step in store.steps(id_)))
        hand_over(store, id_, wanted, folder, out)
    print_text(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}; try it with: python {out}/example.py")
