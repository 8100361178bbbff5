"""The end of a run: the results, what failed, and which command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qpipe.cli.pareto_table import SMOKE_NOTE, RunResults, print_pareto, read_results
from qpipe.cli.results_database import find_run
from qpipe.cli.tables import print_text
from qpipe.compare.json_rows import ParetoRow, groups
from qpipe.engine.request import Request
from qpipe.engine.run import Finished
from qpipe.recipe.yaml_document import shown
from qpipe.storage.results import Store

EXPORT_FOLDER = "shipped"


def print_run_summary(
    store: Store, finished: Finished, request: Request, command: str, *, is_knee: bool = False
) -> None:
    """Print the tables, then how the run ended; `command` is the one that continues it."""
    results = replace(read_results(store, finished.run, is_knee=is_knee), limits=request.limits)
    print_pareto(results)
    if request.smoke:
        print_text(SMOKE_NOTE)
    states = finished.outcome.states
    cached = [step for step, state in states.items() if state == "cached"]
    print_text(
        f"\nrun {finished.run}: {finished.state} in {finished.seconds:.0f} s, "
        f"{len(cached)} of {len(states)} steps cached"
    )
    for reason in finished.unreachable.values():
        print_text(f"  {reason}")
    _print_bad_devices(finished)
    _print_failed_steps(store, finished)
    print_text(f"results: {shown(request.db)}   cache: {shown(request.cache)}")
    if finished.state == "done":
        print_text(_next_commands(store, results, request))
    else:
        print_text(f"continue with: {_continue_command(finished, command)}")


def _print_bad_devices(finished: Finished) -> None:
    states = finished.outcome.states
    for device, reason in finished.bad.items():
        steps = [step.id for step in finished.plan.steps.values() if step.device == device]
        skipped = [step for step in steps if states[step] == "skipped"]
        print_text(f"  {reason} ({len(skipped)} of its steps were skipped)")


def _print_failed_steps(store: Store, finished: Finished) -> None:
    attempts = {row["step"]: row["attempts"] or 0 for row in store.steps(finished.run)}
    outcome = finished.outcome
    for step in outcome.failed:
        kind: str = outcome.failures.get(step, "bug")
        if attempts.get(step, 0) > 1:
            kind += f", attempt {attempts[step]}"
        print_text(f"  failed: {step}: {outcome.errors[step]} ({kind})")


def _continue_command(finished: Finished, command: str) -> str:
    """Return the command that continues a run, after bad devices were cleared."""
    clear_commands = [shlex.join(["qpipe", "devices", "clear", device]) for device in finished.bad]
    return " && ".join([*clear_commands, command])


def _next_commands(store: Store, results: RunResults, request: Request) -> str:
    """Return what to type after a run that is done.

    The export of the first recommendation, where there is one, and the command for all numbers.
    """
    db_options = _path_option("--db", request.db, Request.db)
    cache_options = _path_option("--cache", request.cache, Request.cache)
    # a run that was continued may be older than another run, which commands take by default
    run_id = results.run["id"]
    is_newest = find_run(store, None)["id"] == run_id
    run_options = [] if is_newest else ["--run", run_id]
    pareto_command = shlex.join(["qpipe", "pareto", "--json", *run_options, *db_options])
    best_row = _first_recommended_row(results)
    if best_row is None:
        return f"next: {pareto_command}"
    row_options = _export_options(best_row, results.rows)
    export_command = shlex.join(
        [
            "qpipe",
            "export",
            *row_options,
            "-o",
            EXPORT_FOLDER,
            *run_options,
            *db_options,
            *cache_options,
        ]
    )
    return f"next: {export_command}   or: {pareto_command}"


def _path_option(option: str, path: Path, default: Path) -> list[str]:
    return [] if path == default else [option, shown(path)]


def _first_recommended_row(results: RunResults) -> ParetoRow | None:
    for where in groups(results.rows):
        row = results.recommended_row(where)
        if row is not None:
            return row
    return None


def _export_options(row: ParetoRow, rows: Sequence[ParetoRow]) -> list[str]:
    """Return the options of `qpipe export` that distinguish a row from all others."""
    options = []
    candidates = rows
    for name in ("device", "scheme", "model", "build"):
        is_required = name in ("device", "scheme")
        if is_required or len({candidate[name] for candidate in candidates}) > 1:
            options += [f"--{name}", row[name]]
        candidates = [candidate for candidate in candidates if candidate[name] == row[name]]
    return options
