"""What each scheme of a recipe keeps of the accuracy, what it saves, and how long it takes to make, as one table.

python tests/bench/bench_schemes.py RECIPE [NAME=VALUE ...]

RECIPE is recipes/mobilenet_v2_schemes.yaml, or any other with accuracy and latency; the values are its variables.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from qpipe.storage.results import Store
from qpipe.storage.rows import Row

METRICS = ("agreement", "sqnr_db", "latency_ratio", "size_mb", "effective_bits")
MAKES = ("transform", "calibrate", "quantize")


def run(recipe: str, settings: list[str]) -> tuple[list[Row], list[Row]]:
    """All measurements and all steps of one run in an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "qpipe"), "run", recipe]
        command += ["--db", f"{folder}/results.db", "--cache", f"{folder}/cache"]
        command += [word for setting in settings for word in ("--set", setting)]
        subprocess.run(command, check=True, stdout=subprocess.PIPE)
        with Store(Path(folder) / "results.db") as store:
            made = store.runs()[0]["id"]
            return store.measurements(made), store.steps(made)


def shown(row: Row | None) -> str:
    """A value with its interval, if it has one."""
    if row is None:
        return ""
    if row["metric"] == "sqnr_db" and row["is_float"]:
        return "exact"
    part = 100 if row["metric"] == "agreement" else 1
    value, *interval = (
        None if row[name] is None else f"{row[name] * part:.2f}"
        for name in ("value", "low", "high")
    )
    return f"{value}" if None in interval else f"{value} ({interval[0]} to {interval[1]})"


def table(measurements: list[Row], steps: list[Row]) -> list[str]:
    """A line a scheme, and one for each of the steps that schemes share."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in measurements:
        found[row["scheme"]][row["metric"]] = row
    lines = [
        "| scheme | agreement with float % | SQNR dB | latency / float | MB | bits | s to quantize |"
    ]
    lines.append("|" + "---|" * (len(METRICS) + 2))
    for scheme, metrics in found.items():
        seconds = sum(
            step["seconds"] or 0
            for step in steps
            if (step["kind"], step["scheme"]) == ("quantize", scheme)
        )
        cells = [shown(metrics.get(metric)) for metric in METRICS]
        lines.append(f"| {' | '.join([f'`{scheme}`', *cells, f'{seconds:.0f}'])} |")
    shared = [step for step in steps if step["kind"] in MAKES and step["scheme"] is None]
    return lines + [f"shared: {step['step']}: {step['seconds'] or 0:.0f} s" for step in shared]


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(*table(*run(sys.argv[1], sys.argv[2:])), sep="\n")


if __name__ == "__main__":
    main()
