"""The end of a run: the results, what failed, and which command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import qpipe
from qpipe.cli.parameters import DEFAULT_CACHE, DEFAULT_DB
from qpipe.cli.results_tables import print_results
from qpipe.cli.tables import print_text
from qpipe.errors import shown

LARGER_KEEPS = (2, 3, 5, 10)  # points of loss that are suggested where nothing is recommended


def print_run_summary(run: qpipe.Run, results: qpipe.Results, command: str, *, cache: Path) -> None:
    """Print the tables, then how the run ended; `command` is the one that continues it."""
    ending = run.ending
    assert ending is not None  # it was carried out just now
    print_results(results)
    print_text(
        f"\nrun {run.id}: {run.state} in {ending.seconds:.0f} s, "
        f"{ending.cached} of {ending.steps} steps cached"
    )
    for reason in ending.unreachable.values():
        print_text(f"  {reason}")
    steps = run.steps
    _print_bad_devices(ending, steps)
    _print_failed_steps(steps)
    print_text(f"results: {shown(run.db)}   cache: {shown(cache)}")
    if run.state == "done":
        print_text(_next_commands(run, results, cache))
    else:
        print_text(f"continue with: {_continue_command(ending, command)}")
    print_text(_report_line(run, results, cache))


def _report_line(run: qpipe.Run, results: qpipe.Results, cache: Path) -> str:
    """Write the report of a run; return where it lies, or why it could not be written."""
    try:
        return f"report: {shown(run.report(results=results, cache=cache))}"
    except OSError as error:
        return f"no report: {shown(run.report_file)}: {(error.strerror or '').lower()}"
    except ImportError as error:  # qpipe was upgraded without what it needs: the run is as good
        return f"no report: {error}"


def _print_bad_devices(ending: qpipe.RunEnding, steps: Sequence[qpipe.StepRow]) -> None:
    for device, reason in ending.bad.items():
        skipped = [
            step for step in steps if step["device"] == device and step["state"] == "skipped"
        ]
        print_text(f"  {reason} ({len(skipped)} of its steps were skipped)")


def _print_failed_steps(steps: Sequence[qpipe.StepRow]) -> None:
    for step in steps:
        if step["state"] != "failed":
            continue
        kind = step["failure"] or "bug"
        attempts = step["attempts"] or 0
        if attempts > 1:
            kind += f", attempt {attempts}"
        print_text(f"  failed: {step['step']}: {step['error']} ({kind})")


def _continue_command(ending: qpipe.RunEnding, command: str) -> str:
    """Return the command that continues a run, after bad devices were cleared."""
    clear_commands = [shlex.join(["qpipe", "devices", "clear", device]) for device in ending.bad]
    return " && ".join([*clear_commands, command])


def larger_keep(results: qpipe.Results, options: Sequence[str]) -> str:
    """Return the command for the smallest loss at which there is something to ship, if any."""
    for points in LARGER_KEEPS:
        rows = results.keeping(points).shipped
        if rows and not rows[0].is_float:
            command = shlex.join(["qpipe", "pareto", "--keep", str(points), *options])
            return f"   or, if a loss of up to {points} points will do: {command}"
    return ""


def _next_commands(run: qpipe.Run, results: qpipe.Results, cache: Path) -> str:
    """Return what to type after a run that is done.

    The export of the first recommendation, where there is one, and the command for all numbers.
    """
    db_options = _path_option("--db", run.db, DEFAULT_DB)
    # a run that was continued may be older than another run, which commands take by default
    is_newest = qpipe.find_run(db=run.db).id == run.id
    run_options = [] if is_newest else ["--run", run.id]
    pareto_command = shlex.join(["qpipe", "pareto", "--json", *run_options, *db_options])
    shipped = results.shipped
    if not shipped:
        return f"next: {pareto_command}{larger_keep(results, [*run_options, *db_options])}"
    options = [*run_options, *db_options, *_path_option("--cache", cache, DEFAULT_CACHE)]
    return f"next: {results.export_command(shipped[0], options)}   or: {pareto_command}"


def _path_option(option: str, path: Path, default: Path) -> list[str]:
    """Return an option and its path, as a command needs it; nothing for the default."""
    return [] if path == default else [option, shown(path)]
