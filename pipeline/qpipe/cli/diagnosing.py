"""diagnose: where a scheme's accuracy went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qpipe.cli.display import display
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.compare.wording import EXACT_DB
from qpipe.diagnose.case import Case, make_case
from qpipe.diagnose.ladder import Rung, climb
from qpipe.diagnose.layers import Losses, losses
from qpipe.document import shown
from qpipe.events import Event, Listener
from qpipe.execute import HOME, Request, open_session
from qpipe.store import Store
from qpipe.types import Progress

TOP = 10  # layers in the table


def diagnose(
    asked: Request, scheme: str, model: str | None, build: str | None, device: str | None, count: int, as_json: bool
) -> None:
    """Write the report, print the ladder and the worst layers."""
    with display() as listener:
        session = open_session(asked)
        with Store(asked.db) as store:
            where = device or next(iter(session.devices))
            case = make_case(session, store, scheme, model, build, where, listener.event)
            count = min(count, len(case.samples))
            indices = [at * len(case.samples) // count for at in range(count)]
            rungs = climb(case, store, indices, _progress("ladder", listener.event), listener.say)
        found = losses(case.quantized, case.float_model, case.samples, indices, _progress("layers", listener.event))
    report = _report(case, count, rungs, found)
    place = case.deploy.coordinates
    file = HOME / "diagnose" / session.recipe.name / f"{place['model']}-{scheme}-{place['build']}-{where}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(report)
        return
    _print(report)
    print_text(f"\nall {len(report['layers'])} layers: {shown(file)}")


def _progress(step: str, listen: Listener) -> Progress:
    def progress(done: float, total: float | None = None, unit: str = "") -> None:
        listen(Event(step, "progress", done=done, total=total, unit=unit))

    return progress


def _report(case: Case, count: int, rungs: Sequence[Rung], found: Losses) -> dict[str, Any]:
    return {
        "recipe": case.session.recipe.name,
        **case.deploy.coordinates,
        "samples": count,
        "ladder": [asdict(rung) for rung in rungs],
        "sqnr_db": {"weights": found.weights, "activations": found.activations, "both": found.both},
        "layers": [asdict(layer) for layer in found.layers],
    }


def _print(report: Mapping[str, Any]) -> None:
    print_text(
        f"{report['scheme']} of {report['model']} on {report['device']}, {report['samples']} evaluation samples\n"
    )
    metrics = list(dict.fromkeys(metric for rung in report["ladder"] for metric in rung["metrics"]))
    rows = [
        [rung["name"], *(_number(name, rung["metrics"].get(name)) for name in metrics), rung["samples"], rung["note"]]
        for rung in report["ladder"]
    ]
    print_table(["rung", *metrics, "samples", ""], rows, [*metrics, "samples"])
    parts = report["sqnr_db"]
    print_text(
        f"\nSQNR of the outputs with rounded weights alone {_decibels(parts['weights'])} dB, with rounded activations "
        f"alone {_decibels(parts['activations'])} dB, with both {_decibels(parts['both'])} dB\n"
    )
    headings = ["layer", "operator", "bits", "only it", "all but it", "weights", "activations", "try"]
    print_table(headings, [_row(layer) for layer in report["layers"][:TOP]], headings[2:7])


def _row(layer: Mapping[str, Any]) -> list[str]:
    levels = [_decibels(layer[name]) for name in ("only", "without", "weights", "activations")]
    return [layer["layer"], layer["operator"], str(layer["bits"] or "-"), *levels, layer["remedy"]]


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return _decibels(value) if metric.endswith("_db") else f"{value:.4g}"


def _decibels(value: float | None) -> str:
    if value is None:
        return "-"
    return "exact" if value >= EXACT_DB else f"{value:.1f}"
