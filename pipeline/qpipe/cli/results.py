"""pareto, export, runs and show: what the store knows, as tables and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.document import shown
from qpipe.errors import QpipeError, suggest
from qpipe.execute import Finished, Request
from qpipe.store import Store

Row = dict[str, Any]

# first the objectives of the recipe, then what is always worth seeing
ALWAYS = ("latency_ms", "latency_ratio", "size_mb", "memory_mb", "agreement", "sqnr_db")
PERCENT = ("agreement", "top", "map")  # fractions are shown as percent


def find_run(store: Store, run: str | None) -> Row:
    """The run by id, or the newest; QpipeError where there is none."""
    if run:
        return store.run(run)
    newest = store.latest_run()
    if newest is None:
        raise QpipeError(f"{shown(store.path)}: no run yet; start one with: qpipe run RECIPE")
    return newest


def rows(store: Store, run: str) -> list[Row]:
    """The rows of `qpipe pareto --json`."""
    from qpipe.compare.pareto import pareto_rows

    return pareto_rows(store, run)


def objectives_of(store: Store, run: str) -> dict[str, Any]:
    """What the run's front was drawn over."""
    objectives: dict[str, Any] = next((verdict["objectives"] for verdict in store.verdicts(run)), {})
    return objectives


def pareto(run: str | None, device: str | None, db: Path, as_json: bool) -> None:
    """Print a run's table, or its rows."""
    with Store(db) as store:
        found = find_run(store, run)
        own = rows(store, found["id"])
        devices = sorted({row["device"] for row in own})
        if device and device not in devices:
            raise QpipeError(f"run {found['id']}: no device '{device}'; {suggest(device, devices)}")
        own = [row for row in own if device in (None, row["device"])]
        if as_json:
            print_json(own)
        else:
            print_pareto(store, found["id"], own)


def print_pareto(store: Store, run: str, own: list[Row]) -> None:
    """A table per model and device, each with its sentence."""
    from qpipe.compare.recommend import recommend

    objectives = objectives_of(store, run)
    if not own:
        print_text("nothing was measured")
    for model, device in dict.fromkeys((row["model"], row["device"]) for row in own):
        group = [row for row in own if (row["model"], row["device"]) == (model, device)]
        metrics = list(dict.fromkeys([*objectives, *(m for m in ALWAYS if any(m in row["metrics"] for row in group))]))
        print_text(f"\n{model} on {device}  (* = on the Pareto front of {', '.join(objectives)})")
        several = len({row["build"] for row in group}) > 1
        table = [
            ["*" if row["on_front"] else "", f"{row['scheme']}{' ' + row['build'] if several else ''}"]
            + [cell(metric, row["metrics"].get(metric)) for metric in metrics]
            for row in group
        ]
        print_table(["", "scheme", *map(heading, metrics)], table, right=[heading(metric) for metric in metrics])
        print_text("\n" + "\n".join(recommend(group, objectives)))


def heading(metric: str) -> str:
    """A metric's column title, with its unit."""
    if metric.startswith(PERCENT):
        return f"{metric} %"
    return {"latency_ms": "latency ms", "size_mb": "size MB", "memory_mb": "memory MB", "sqnr_db": "SQNR dB",
            "latency_ratio": "x float"}.get(metric, metric)  # fmt: skip


def cell(metric: str, measured: dict[str, Any] | None) -> str:
    """A value with half the width of its interval."""
    if measured is None:
        return "-"
    scale = 100 if metric.startswith(PERCENT) else 1
    digits = 1 if scale == 100 or metric in ("memory_mb", "sqnr_db") else 2
    text = f"{measured['value'] * scale:.{digits}f}"
    if measured["low"] is None or measured["high"] is None:
        return text
    return f"{text} ±{(measured['high'] - measured['low']) / 2 * scale:.{digits}f}"


def print_run(store: Store, finished: Finished, asked: Request, command: str) -> None:
    """The end of a run: table, recommendation, where it all lies, what to type next."""
    from qpipe.compare.recommend import choose

    own = rows(store, finished.run)
    print_pareto(store, finished.run, own)
    states = finished.outcome.states
    cached = sum(state == "cached" for state in states.values())
    steps = f"{cached} of {len(states)} steps cached"
    print_text(f"\nrun {finished.run}: {finished.state} in {finished.seconds:.0f} s, {steps}")
    for device, reason in finished.unreachable.items():
        print_text(f"  {device}: {reason}")
    for step in finished.outcome.failed:
        print_text(f"  failed: {step}: {finished.outcome.errors[step]}")
    print_text(f"results: {shown(asked.db)}   cache: {shown(asked.cache)}")
    if finished.state != "done":
        print_text(f"go on with: {command}")
    else:
        best = choose(own, objectives_of(store, finished.run))
        options = f" --db {shown(asked.db)}" if asked.db != Request.db else ""
        if best:
            pick = f"--device {best['device']} --scheme {best['scheme']}"
            print_text(f"next: qpipe export {pick} -o shipped{options}   or: qpipe pareto --json{options}")


def runs(db: Path, as_json: bool) -> None:
    """Print all runs."""
    with Store(db) as store:
        found = store.runs()
    if as_json:
        print_json(found)
        return
    columns = ("id", "recipe", "state", "started", "finished", "host")
    print_table(columns, [[str(run[column] or "")[:40] for column in columns] for run in found])


def show(step: str | None, run: str | None, log: bool, db: Path, as_json: bool) -> None:
    """Print a run's steps, or one step with its log."""
    with Store(db) as store:
        row = find_run(store, run)
        steps = store.steps(row["id"])
    if step is None:
        if as_json:
            print_json({**row, "steps": steps})
            return
        print_text(f"run {row['id']} of {row['recipe']}: {row['state']}")
        columns = ("step", "state", "seconds", "error")
        print_table(columns, [[entry[column] for column in columns] for entry in steps], right=("seconds",))
        return
    entry = next((entry for entry in steps if entry["step"] == step), None)
    if entry is None:
        raise QpipeError(f"run {row['id']}: no step '{step}'; {suggest(step, [e['step'] for e in steps])}")
    text = _log(entry)
    if as_json:
        print_json({**entry, "log_text": text})
    elif log:
        print_text(text or "it wrote nothing")
    else:
        print_table(("field", "value"), [(name, value) for name, value in entry.items() if value is not None])


def _log(entry: Row) -> str:
    path = Path(entry["log"] or "")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def export(
    device: str, scheme: str, out: Path, model: str | None, build: str | None, run: str | None, db: Path, cache: Path
) -> None:
    """Write the bundle and say what is in it."""
    from qpipe.cli.handover import hand_over

    with Store(db) as store:
        row = find_run(store, run)
        hand_over(store, row, {"device": device, "scheme": scheme, "model": model, "build": build}, out, cache)
    print_text(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}; try it with: python {out}/example.py")
