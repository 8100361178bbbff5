"""pareto, export, runs and show: what the store knows, as tables and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qpipe.cache import Cache
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.document import shown
from qpipe.errors import QpipeError, suggest
from qpipe.execute import Finished, Request
from qpipe.store import Store

Row = dict[str, Any]

RATIO = "latency_ratio"
EXACT_DB = 200  # sqnr's cap: the same to the last bit
# what is always worth seeing, after the objectives of the recipe and its scores
ALWAYS = ("latency_ms", RATIO, "size_mb", "memory_mb", "agreement", "sqnr_db")
TITLES = {RATIO: "x float", "sqnr_db": "SQNR dB"}


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
        metrics = columns(group, objectives)
        print_text(f"\n{model} on {device}  (* = on the Pareto front of {', '.join(objectives)})")
        several = len({row["build"] for row in group}) > 1
        table = [
            ["*" if row["on_front"] else "", f"{row['scheme']}{' ' + row['build'] if several else ''}"]
            + [cell(row["metrics"].get(metric), is_share(metric, group)) for metric in metrics]
            for row in group
        ]
        headings = [heading(metric, group) for metric in metrics]
        print_table(["", "scheme", *headings], table, right=headings)
        print_text("\n" + "\n".join(recommend(group, objectives)))


def columns(group: list[Row], objectives: Iterable[str]) -> list[str]:
    """The metrics to show: objectives, scores, then what is always worth seeing."""
    measured = dict.fromkeys(metric for row in group for metric in row["metrics"])
    scores = [metric for metric in measured if is_share(metric, group)]
    return [m for m in dict.fromkeys([*objectives, *scores, *ALWAYS]) if m in measured]


def is_share(metric: str, group: list[Row]) -> bool:
    """Whether it is a fraction between 0 and 1, which people read as percent."""
    return metric != RATIO and any(row["metrics"][metric]["unit"] == "" for row in group if metric in row["metrics"])


def heading(metric: str, group: list[Row]) -> str:
    """A metric's column title, with its unit."""
    if is_share(metric, group):
        return f"{metric} %"
    name, _, unit = metric.rpartition("_")
    return TITLES.get(metric) or (f"{name} {'MB' if unit == 'mb' else unit}" if unit in ("mb", "ms") else metric)


def cell(measured: dict[str, Any] | None, share: bool) -> str:
    """A value with half the width of its interval; shares in percent."""
    if measured is None:
        return "-"
    if measured["unit"] == "dB" and measured["value"] >= EXACT_DB:
        return "exact"
    scale = 100 if share else 1
    digits = 1 if share or measured["value"] >= 50 or measured["unit"] == "dB" else 2
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
    names = ("id", "recipe", "state", "started", "finished", "host")
    print_table(names, [[str(run[name] or "")[:40] for name in names] for run in found])


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
        names = ("step", "state", "seconds", "error")
        print_table(names, [[entry[name] for name in names] for entry in steps], right=("seconds",))
        return
    entry = next((entry for entry in steps if entry["step"] == step), None)
    if entry is None:
        raise QpipeError(f"run {row['id']}: no step '{step}'; {suggest(step, [e['step'] for e in steps])}")
    text = _log(entry)
    if as_json:
        print_json({**entry, "log_text": text})
    elif log:
        print_text(text.rstrip("\n") or "it wrote nothing")
    else:
        print_table(("field", "value"), [(name, value) for name, value in entry.items() if value is not None])


def _log(entry: Row) -> str:
    path = Path(entry["log"] or "")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def export(
    device: str, scheme: str, out: Path, model: str | None, build: str | None, run: str | None, db: Path, cache: Path
) -> None:
    """Write the bundle and say what is in it."""
    from qpipe.handover import hand_over

    wanted = {"device": device, "scheme": scheme, "model": model, "build": build}
    with Store(db) as store:
        hand_over(store, find_run(store, run)["id"], wanted, Cache(cache), out)
    print_text(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}; try it with: python {out}/example.py")
