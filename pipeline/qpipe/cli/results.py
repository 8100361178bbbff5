"""pareto, export, runs and show: what the store knows, as tables and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qpipe.cli.noting import noted
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import cell, groups, heading, is_share, place
from qpipe.compare.measured_rows import Place
from qpipe.compare.pareto import objectives_of, pareto_rows
from qpipe.compare.recommend import choose, keeps, recommend
from qpipe.engine.run import Finished, Request
from qpipe.errors import QpipeError, suggest
from qpipe.recipe import limits
from qpipe.recipe.yaml_document import shown
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.types import Limits

Row = dict[str, Any]

SMOKE = (
    "a smoke run: that all works is what it shows; its numbers are of too few samples to decide by"
)
DOMINATED = "(dominated: another is better in an objective and worse in none, beyond noise and a small margin)"
# what is always worth seeing, after the objectives of the recipe and its scores
ALWAYS = (
    "latency_ms",
    "size_mb",
    "agreement",
    "latency_ratio",
    "memory_mb",
    "sqnr_db",
    "effective_bits",
    "int8_nodes",
)


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


@dataclass(frozen=True)
class Results:
    """What a run measured, and what is to be chosen by."""

    run: Row
    rows: list[Row]  # of `qpipe pareto --json`
    objectives: Mapping[
        Place, Mapping[str, Goal]
    ]  # of each model and device: those that were measured there
    limits: Limits

    def missing(self, where: Place) -> list[str]:
        """The objectives that were not measured of a model on a device."""
        return [metric for metric in self.run["objectives"] if metric not in self.objectives[where]]

    def on(self, device: str | None) -> Results:
        """Those of this device alone; QpipeError where the run has no such."""
        devices = sorted({row["device"] for row in self.rows})
        if device and device not in devices:
            raise QpipeError(
                f"run {self.run['id']}: no device '{device}'; {suggest(device, devices)}"
            )
        return replace(self, rows=[row for row in self.rows if device in (None, row["device"])])

    def misfits(self) -> list[str]:
        """What is wrong with the limits."""
        measured = {metric for row in self.rows for metric in row["metrics"]}
        return limits.misfits(
            self.limits, measured, {metric for metric in measured if is_share(metric, self.rows)}
        )


def read(store: Store, run: str, asked: Limits | None = None) -> Results:
    """The results of a run, to be chosen from by these limits, or else by those that it was asked to keep."""
    found = store.run(run)
    kept = asked or limits.remembered(found)
    return Results(found, pareto_rows(store, found["id"]), objectives_of(store, found["id"]), kept)


def pareto(run: str | None, device: str | None, asked: Limits, db: Path, as_json: bool) -> None:
    """Print a run's table, or its rows."""
    with open_results(db) as store:
        found = read(store, find_run(store, run)["id"], asked).on(device)
    if asked and (wrong := found.misfits()):
        raise QpipeError(*wrong)
    if as_json:
        judged = [{**row, "within_limits": keeps(row, found.limits)} for row in found.rows]
        print_json(judged if found.limits else found.rows)
        return
    print_pareto(found)
    if (found.run["request"] or {}).get("smoke"):
        print_text(SMOKE)
    print_text(f"\nrun {found.run['id']} of {found.run['recipe']}: {found.run['state']}")


def print_pareto(found: Results) -> None:
    """A table per model and device, each with its sentence, which keeps to the limits."""
    if not found.rows:
        print_text("nothing was measured")
    for where, group in groups(found.rows).items():
        objectives = found.objectives[where]
        metrics = columns(group, objectives)
        front = f"  (* = on the Pareto front of {', '.join(objectives)})" if objectives else ""
        print_text(f"\n{place(group)}{front}")
        several = len({row["build"] for row in group}) > 1
        table = [
            [
                "*" if row["on_front"] else "",
                f"{row['scheme']}{' ' + row['build'] if several else ''}",
            ]
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
        missing = found.missing(where)
        said = (
            [unmeasured(missing, group)] if missing else recommend(group, objectives, found.limits)
        )
        print_text("\n" + "\n".join(said))
    for line in found.misfits() if found.rows else ():
        print_text(line)


def _verdict(row: Row, judged: bool) -> str:
    """What a row is worth, in words."""
    tied = f", tied with {', '.join(row['ties'])}" if row["ties"] else ""
    return row["reason"] or (
        f"on the front{tied}" if row["on_front"] and judged else tied.removeprefix(", ")
    )


def unmeasured(missing: list[str], group: list[Row]) -> str:
    """Why nothing is recommended: what is best in the rest may be the worst in what was not measured."""
    there = sorted({metric for row in group for metric in row["metrics"]})
    names = f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'}"
    return f"nothing is recommended: {names} not measured; measure it, or set pareto to some of {', '.join(there)}"


def columns(group: list[Row], objectives: Iterable[str]) -> list[str]:
    """The metrics to show: objectives, scores, then what is always worth seeing."""
    measured = {metric: number for row in group for metric, number in row["metrics"].items()}
    scores = [
        metric for metric, number in measured.items() if "raw" in number and metric not in ALWAYS
    ]
    return [m for m in dict.fromkeys([*objectives, *scores, *ALWAYS]) if m in measured]


def print_run(store: Store, finished: Finished, asked: Request, command: str) -> None:
    """The end of a run: table, recommendation, where it all lies, what to type next."""
    found = replace(read(store, finished.run), limits=asked.limits)
    print_pareto(found)
    if asked.smoke:
        print_text(SMOKE)
    states = finished.outcome.states
    cached = sum(state == "cached" for state in states.values())
    steps = f"{cached} of {len(states)} steps cached"
    print_text(f"\nrun {finished.run}: {finished.state} in {finished.seconds:.0f} s, {steps}")
    for reason in finished.unreachable.values():
        print_text(f"  {reason}")
    for device, reason in finished.bad.items():
        skipped = sum(
            states[step.id] == "skipped"
            for step in finished.plan.steps.values()
            if step.device == device
        )
        print_text(f"  {reason} ({skipped} of its steps were skipped)")
    tried = {row["step"]: row["attempts"] or 0 for row in store.steps(finished.run)}
    for step in finished.outcome.failed:
        attempts = f", attempt {tried[step]}" if tried.get(step, 0) > 1 else ""
        failure = finished.outcome.failures.get(step, "bug")
        print_text(f"  failed: {step}: {finished.outcome.errors[step]} ({failure}{attempts})")
    print_text(f"results: {shown(asked.db)}   cache: {shown(asked.cache)}")
    if finished.state != "done":
        cleared = "".join(
            f"{shlex.join(['qpipe', 'devices', 'clear', device])} && " for device in finished.bad
        )
        print_text(f"go on with: {cleared}{command}")
    else:
        print_text(_next(store, found, asked))


def _next(store: Store, found: Results, asked: Request) -> str:
    """What to type after a run that is done: the export of the first recommendation, or all numbers."""
    chosen = (
        choose(group, found.objectives[where], found.limits)
        for where, group in groups(found.rows).items()
        if not found.missing(where) and (found.objectives[where] or found.limits)
    )
    best = next((row for row in chosen if row), None)
    db = ["--db", shown(asked.db)] if asked.db != Request.db else []
    cache = ["--cache", shown(asked.cache)] if asked.cache != Request.cache else []
    # a run that went on where it was cut may be older than another, which is then the one that commands take
    run = found.run["id"]
    own_run = ["--run", run] if find_run(store, None)["id"] != run else []
    numbers = shlex.join(["qpipe", "pareto", "--json", *own_run, *db])
    if best is None:
        return f"next: {numbers}"
    handed = shlex.join(
        ["qpipe", "export", *_pick(best, found.rows), "-o", "shipped", *own_run, *db, *cache]
    )
    return f"next: {handed}   or: {numbers}"


def _pick(row: Mapping[str, Any], own: list[Row]) -> list[str]:
    """The options of `qpipe export` that tell a row from all others."""
    words = []
    left = own
    for name in ("device", "scheme", "model", "build"):
        if name in ("device", "scheme") or len({other[name] for other in left}) > 1:
            words += [f"--{name}", row[name]]
        left = [other for other in left if other[name] == row[name]]
    return words


def export(
    device: str,
    scheme: str,
    out: Path,
    model: str | None,
    build: str | None,
    run: str | None,
    db: Path,
    cache: Path,
    force: bool,
) -> None:
    """Write the bundle and say what is in it."""
    from qpipe.export.from_run import hand_over

    wanted = {"device": device, "scheme": scheme, "model": model, "build": build}
    with open_results(db) as store, ExitStack() as kept:
        id_ = find_run(store, run)["id"]
        folder = Cache(cache)
        if cache.is_dir():
            kept.enter_context(
                folder.kept((step["kind"], step["key"]) for step in store.steps(id_))
            )
        hand_over(store, id_, wanted, folder, out, force=force)
    print_text(
        f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}; try it with: python {out}/example.py"
    )
