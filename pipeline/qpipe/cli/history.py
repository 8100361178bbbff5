"""runs, tag and show: what ran, under which words, and what each step did."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.cli.results import find_run, open_results
from qpipe.errors import QpipeError, suggest
from qpipe.recipe import yaml_document

Row = dict[str, Any]


def runs(tag: str | None, db: Path, as_json: bool) -> None:
    """Print all runs, or those with a tag."""
    with open_results(db) as store:
        tags = store.tags()
        failures = store.failures()
        found = [
            {**run, "tags": tags.get(run["id"], []), "failures": failures.get(run["id"], {})}
            for run in store.runs(tag=tag)
        ]
    if tag and not found:
        known = sorted({each for own in tags.values() for each in own})
        raise QpipeError(f"--tag {tag}: no run has it; {suggest(tag, known)}")
    if as_json:
        print_json(found)
        return
    names = ("id", "recipe", "state", "started", "finished", "host", "tags")
    rows = [
        {**run, "recipe": f"{run['recipe']}{_smoke(run)}", "tags": ", ".join(run["tags"])}
        for run in found
    ]
    print_table(names, [[str(run[name] or "")[:40] for name in names] for run in rows])


def _smoke(run: Row) -> str:
    """What tells a run over few samples from one that counts."""
    return " (smoke)" if (run["request"] or {}).get("smoke") else ""


def tag(run: str, tags: list[str], remove: bool, db: Path, as_json: bool) -> None:
    """Tag a run, or take tags from it, and print those it has now."""
    for each in tags:
        yaml_document.name(each, "runs tag", "tag")
    with open_results(db) as store:
        id_ = find_run(store, run)["id"]
        (store.untag if remove else store.tag)(id_, tags)
        now = store.tags().get(id_, [])
    if as_json:
        print_json({"run": id_, "tags": now})
    else:
        print_text(f"run {id_}: {', '.join(now) or 'no tags'}")


def show(step: str | None, run: str | None, log: bool, db: Path, as_json: bool) -> None:
    """Print a run's steps, or one step with its log."""
    with open_results(db) as store:
        row = find_run(store, run)
        steps = store.steps(row["id"])
        devices = {name: asdict(own) for name, own in store.capabilities(row["id"]).items()}
        numbers = [
            _number(found) for found in store.measurements(row["id"]) if found["step"] == step
        ]
        tries = store.attempts(row["id"], step) if step else []
    if step is None:
        if as_json:
            print_json({**row, "devices": devices, "steps": steps})
            return
        print_text(f"run {row['id']} of {row['recipe']}{_smoke(row)}: {row['state']}")
        names = ("step", "state", "seconds", "failure", "error")
        print_table(names, [[entry[name] for name in names] for entry in steps], right=("seconds",))
        return
    entry = next((entry for entry in steps if entry["step"] == step), None)
    if entry is None:
        raise no_step(f"run {row['id']}", step, [e["step"] for e in steps], "qpipe show")
    text = _log(entry)
    if as_json:
        print_json({**entry, "log_text": text, "tries": tries, "measurements": numbers})
    elif log:
        print_text(text.rstrip("\n") or "it wrote nothing")
    else:
        told = {
            **entry,
            "log": entry["log"] if text else None,
        }  # a step that says nothing has no log
        print_table(
            ("field", "value"), [(name, value) for name, value in told.items() if value is not None]
        )
        print_tries(tries)
        print_numbers(numbers)


def no_step(where: str, step: str, steps: Iterable[str], command: str) -> QpipeError:
    """The error for an unknown step: of the many there are, only those that may have been meant."""
    near = difflib.get_close_matches(step, list(steps), n=3, cutoff=0.8)
    hint = (
        f"did you mean {' or '.join(repr(each) for each in near)}?"
        if near
        else f"see them with: {command}"
    )
    return QpipeError(f"{where}: no step '{step}'; {hint}")


def _number(row: Row) -> Row:
    """What a measurement says, by whom it is of."""
    said = {
        name: row[name]
        for name in ("metric", "value", "low", "high", "unit", "n", "attempt", "emulated")
    }
    return {"of": "/".join(row[part] for part in ("model", "scheme", "build")), **said}


def print_tries(tries: list[Row]) -> None:
    """Each attempt at a step, where there was more than one."""
    if len(tries) > 1:
        print_text("\nattempts:")
        names = ("attempt", "state", "started", "failure", "error")
        print_table(names, [[each[name] for name in names] for each in tries], right=("attempt",))


def print_numbers(numbers: list[Row]) -> None:
    """The numbers that a step measured, with their intervals."""
    if not numbers:
        return
    print_text("\nmeasured:")
    table = [
        [n["of"], _named(n), f"{n['value']:.6g}", _interval(n), n["unit"] or "", n["n"]]
        for n in numbers
    ]
    print_table(("of", "metric", "value", "95 %", "unit", "n"), table, right=("value", "n"))


def _named(number: Row) -> str:
    from qpipe.compare.formatting import named

    return named(number["metric"], number["unit"] or "", number["emulated"])


def _interval(number: Row) -> str:
    return "" if number["low"] is None else f"{number['low']:.6g} to {number['high']:.6g}"


def _log(entry: Row) -> str:
    path = Path(entry["log"] or "")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
