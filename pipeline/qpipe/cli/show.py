"""qpipe show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import qpipe
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption, RunOption
from qpipe.cli.tables import print_json, print_table, print_text, print_titled_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe import AttemptRow, StepRow

RUN_COLUMNS = ("step", "state", "seconds", "failure", "error")
ATTEMPT_COLUMNS = ("attempt", "state", "started", "failure", "error")


def show(
    step: Annotated[
        str | None, typer.Argument(help="The step; by default all steps.", show_default=False)
    ] = None,
    run: RunOption = None,
    log: Annotated[bool, typer.Option("--log", help="Print the log of the step.")] = False,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Show the steps of a run, or one step with its log."""
    found = qpipe.find_run(run, db=db)
    if step is None:
        _show_run(found, as_json=as_json)
    else:
        _show_step(found.step(step), log=log, as_json=as_json)


# ---- all steps


def _show_run(run: qpipe.Run, *, as_json: bool) -> None:
    steps = run.steps
    unreachable = run.unreachable
    if as_json:
        devices = {name: asdict(reported) for name, reported in run.devices.items()}
        document = {"devices": devices, "unreachable": unreachable, "steps": steps}
        print_json({**run.record, **document})
        return
    smoke = " (smoke)" if run.is_smoke else ""
    print_text(f"run {run.id} of {run.recipe}{smoke}: {run.state}")
    rows = [_cells(step, RUN_COLUMNS) for step in steps]
    print_table(RUN_COLUMNS, rows, right=("seconds",))
    for reason in unreachable.values():
        print_text(f"not reached: {reason}")


def _cells(row: StepRow | AttemptRow, columns: Sequence[str]) -> list[object]:
    values: dict[str, object] = {**row}
    return [values[column] for column in columns]


# ---- one step


def _show_step(step: qpipe.RunStep, *, log: bool, as_json: bool) -> None:
    if as_json:
        print_json(step.to_dict())
    elif log:
        print_text(step.log.rstrip("\n") or "the log is empty")
    else:
        _print_fields(step.record)
        _print_attempts(step.attempts)
        if step.measurements:
            print_text()
            print_titled_table(step.numbers)


def _print_fields(step: StepRow) -> None:
    rows = [(name, value) for name, value in step.items() if value is not None]
    print_table(("field", "value"), rows)


def _print_attempts(attempts: Sequence[AttemptRow]) -> None:
    """Print the attempts at a step, where there was more than one."""
    if len(attempts) < 2:
        return
    print_text("\nattempts:")
    rows = [_cells(attempt, ATTEMPT_COLUMNS) for attempt in attempts]
    print_table(ATTEMPT_COLUMNS, rows, right=("attempt",))
