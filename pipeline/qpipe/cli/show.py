"""qpipe show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption, RunOption
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.cli.unknown_steps import unknown_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.storage.results import Store
    from qpipe.storage.rows import AttemptRow, MeasurementRow, RunRow, StepRow
    from qpipe.types import Emulation

RUN_COLUMNS = ("step", "state", "seconds", "failure", "error")
ATTEMPT_COLUMNS = ("attempt", "state", "started", "failure", "error")
MEASUREMENT_COLUMNS = ("of", "metric", "value", "95 %", "unit", "n")


class MeasuredNumber(TypedDict):
    """A number that a step measured; `of` is model/scheme/build."""

    of: str
    metric: str
    value: float
    low: float | None
    high: float | None
    unit: str
    n: int
    attempt: int | None
    emulated: Emulation | None


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
    with open_results(db) as store:
        run_row = find_run(store, run)
        if step is None:
            _show_run(store, run_row, as_json=as_json)
        else:
            _show_step(store, run_row, step, log=log, as_json=as_json)


# ---- all steps


def _show_run(store: Store, run: RunRow, *, as_json: bool) -> None:
    steps = store.steps(run["id"])
    if as_json:
        capabilities = store.capabilities(run["id"])
        devices = {name: asdict(reported) for name, reported in capabilities.items()}
        unreachable = store.unreachable(run["id"])
        print_json({**run, "devices": devices, "unreachable": unreachable, "steps": steps})
        return
    from qpipe.storage.rows import is_smoke_run

    smoke = " (smoke)" if is_smoke_run(run) else ""
    print_text(f"run {run['id']} of {run['recipe']}{smoke}: {run['state']}")
    rows = [_cells(step, RUN_COLUMNS) for step in steps]
    print_table(RUN_COLUMNS, rows, right=("seconds",))
    for reason in store.unreachable(run["id"]).values():
        print_text(f"not reached: {reason}")


def _cells(row: StepRow | AttemptRow, columns: Sequence[str]) -> list[object]:
    values: dict[str, object] = {**row}
    return [values[column] for column in columns]


# ---- one step


def _show_step(store: Store, run: RunRow, step: str, *, log: bool, as_json: bool) -> None:
    from qpipe.engine.request import run_folder
    from qpipe.engine.step_log import read_log

    steps = {row["step"]: row for row in store.steps(run["id"])}
    if step not in steps:
        raise unknown_step(step, steps, where=f"run {run['id']}", list_command="qpipe show")
    row = steps[step]
    log_text = read_log(run_folder(store.path, run["id"]), step)
    attempts = store.attempts(run["id"], step)
    measurements = store.measurements(run["id"])
    numbers = [_measured_number(measured) for measured in measurements if measured["step"] == step]
    if as_json:
        print_json({**row, "log_text": log_text, "tries": attempts, "measurements": numbers})
    elif log:
        print_text(log_text.rstrip("\n") or "the log is empty")
    else:
        _print_fields(row)
        _print_attempts(attempts)
        _print_numbers(numbers)


def _measured_number(measurement: MeasurementRow) -> MeasuredNumber:
    build = (measurement["model"], measurement["scheme"], measurement["build"])
    return {
        "of": "/".join(build),
        "metric": measurement["metric"],
        "value": measurement["value"],
        "low": measurement["low"],
        "high": measurement["high"],
        "unit": measurement["unit"],
        "n": measurement["n"],
        "attempt": measurement["attempt"],
        "emulated": measurement["emulated"],
    }


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


def _print_numbers(numbers: Sequence[MeasuredNumber]) -> None:
    """Print the numbers that a step measured, with their intervals."""
    from qpipe.compare.formatting import metric_name

    if not numbers:
        return
    print_text("\nmeasured:")
    rows = []
    for number in numbers:
        unit = number["unit"] or ""
        interval = ""
        if number["low"] is not None and number["high"] is not None:
            interval = f"{number['low']:.6g} to {number['high']:.6g}"
        metric = metric_name(number["metric"], unit, number["emulated"])
        value = f"{number['value']:.6g}"
        rows.append((number["of"], metric, value, interval, unit, number["n"]))
    print_table(MEASUREMENT_COLUMNS, rows, right=("value", "n"))
