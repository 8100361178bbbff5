"""compare: what became better or worse from one run to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.cli.results import find_run, open_results
from qpipe.errors import QpipeError, suggest

Row = dict[str, Any]
ORDER = ("worse", "better", "not comparable", "missing", "new", "tied")


def compare(
    before: str, after: str, device: str | None, metrics: Sequence[str], db: Path, as_json: bool
) -> None:
    """Print a table of all that changed, or every row as JSON."""
    from qpipe.compare.device_changes import differing_environments
    from qpipe.compare.runs import compared

    with open_results(db) as store:
        old = find_run(store, before)
        new = find_run(store, after)
        rows = compared(store, old["id"], new["id"])
        told = differing_environments(store, old["id"], new["id"])
    rows = _picked(rows, "--metric", "metric", metrics)
    rows = _picked(rows, "--device", "device", [device] if device else [])
    if as_json:
        print_json({"before": old["id"], "after": new["id"], "environment": told, "rows": rows})
        return
    dull = (
        () if metrics else ("tied", "not comparable")
    )  # these are counted, unless they are asked for
    changed = sorted(
        (row for row in rows if row["verdict"] not in dull),
        key=lambda row: ORDER.index(row["verdict"]),
    )
    columns = ("row", "metric", "before", "after", "ratio", "verdict")
    if changed:
        print_table(columns, [_cells(row) for row in changed], right=("before", "after", "ratio"))
    counts = [f"{n} {word}" for word in ORDER if (n := sum(row["verdict"] == word for row in rows))]
    print_text(f"{old['id']} to {new['id']}: {', '.join(counts) or 'nothing was measured'}")
    for reason, number in Counter(
        " and ".join(row["differs"]) for row in rows if row["differs"]
    ).items():
        print_text(f"{number} cannot be compared: not the same in both is {reason}")
    doubtful = [row for row in rows if row["verdict"] == "not comparable" and not row["differs"]]
    for reason, number in Counter(row["doubt"] for row in doubtful).items():
        print_text(f"{number} cannot be compared, being in doubt: {reason}")
    for line in told:
        print_text(f"measured under other conditions: {line}")


def _picked(rows: list[Row], option: str, key: str, wanted: Sequence[str]) -> list[Row]:
    for each in wanted:
        known = sorted({row[key] for row in rows})
        if each not in known:
            raise QpipeError(f"{option} {each}: neither run has it; {suggest(each, known)}")
    return [row for row in rows if not wanted or row[key] in wanted]


def _cells(row: Row) -> list[str]:
    from qpipe.compare.formatting import named

    name = "/".join(row[part] for part in ("model", "scheme", "build")) + f"@{row['device']}"
    verdict = row["verdict"]
    if row["differs"]:
        verdict += f": not the same is {' and '.join(row['differs'])}"
    elif verdict == "not comparable":
        verdict += f": {row['doubt']}"
    ratio = row["ratio"]
    said = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" if ratio else ""
    metric = named(row["metric"], row["unit"] or "", row["emulated"])
    return [name, metric, _value(row["before"]), _value(row["after"]), said, verdict]


def _value(measured: Row | None) -> str:
    if measured is None:
        return "-"
    half = "" if measured["low"] is None else f" ±{(measured['high'] - measured['low']) / 2:.2g}"
    return f"{measured['value']:.4g}{half}"
