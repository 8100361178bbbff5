"""The end of a run: the results, what failed, and which command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from qpipe.cli.pareto_table import SMOKE_NOTE, print_pareto
from qpipe.cli.report_file import path_option, report_file, write_report
from qpipe.cli.results_database import find_run
from qpipe.cli.tables import print_text
from qpipe.engine.request import Request
from qpipe.engine.run import Finished
from qpipe.recipe.yaml_document import shown
from qpipe.report.run_results import RunResults, export_command, read_results
from qpipe.storage.results import Store

LARGER_KEEPS = (2, 3, 5, 10)  # points of loss that are suggested where nothing is recommended


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
    print_text(_report_line(store, results, request))


def _report_line(store: Store, results: RunResults, request: Request) -> str:
    """Write the report of a run; return where it lies, or why it could not be written."""
    run = results.run["id"]
    file = report_file(request.db, run)
    try:
        write_report(store, run, file, results=results, cache=request.cache)
    except OSError as error:
        return f"no report: {shown(file)}: {(error.strerror or '').lower()}"
    except ImportError as error:  # qpipe was upgraded without what it needs: the run is as good
        return f"no report: {error}"
    return f"report: {shown(file)}"


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


def larger_keep(results: RunResults, options: Sequence[str]) -> str:
    """Return the command for the smallest loss at which there is something to ship, if any."""
    for points in LARGER_KEEPS:
        row = replace(results, keep=float(points)).first_recommended_row()
        if row is not None and not row["is_float"]:
            command = shlex.join(["qpipe", "pareto", "--keep", str(points), *options])
            return f"   or, if a loss of up to {points} points will do: {command}"
    return ""


def _next_commands(store: Store, results: RunResults, request: Request) -> str:
    """Return what to type after a run that is done.

    The export of the first recommendation, where there is one, and the command for all numbers.
    """
    db_options = path_option("--db", request.db, Request.db)
    cache_options = path_option("--cache", request.cache, Request.cache)
    # a run that was continued may be older than another run, which commands take by default
    run_id = results.run["id"]
    is_newest = find_run(store, None)["id"] == run_id
    run_options = [] if is_newest else ["--run", run_id]
    pareto_command = shlex.join(["qpipe", "pareto", "--json", *run_options, *db_options])
    row = results.first_recommended_row()
    if row is None:
        return f"next: {pareto_command}{larger_keep(results, [*run_options, *db_options])}"
    options = [*run_options, *db_options, *cache_options]
    return f"next: {export_command(row, results.rows, options)}   or: {pareto_command}"
