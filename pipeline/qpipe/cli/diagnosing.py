"""diagnose: where a scheme's accuracy went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qpipe.cli.display import display
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.diagnose.ladder import Rung, climb
from qpipe.diagnose.layer_errors import Losses, losses
from qpipe.diagnose.page import (
    LAYER_COLUMNS,
    LAYER_NUMBERS,
    ladder_cells,
    layer_cells,
    outputs_line,
    page,
    saturation_lines,
)
from qpipe.diagnose.saturation import saturating_layers
from qpipe.diagnose.scheme_networks import Case, make_case
from qpipe.engine.events import Event, Listener
from qpipe.engine.run import HOME, Request, open_session
from qpipe.recipe.yaml_document import shown
from qpipe.storage.results import Store
from qpipe.types import Progress

TOP = 10  # layers in the table


def diagnose(
    asked: Request,
    scheme: str,
    model: str | None,
    build: str | None,
    device: str | None,
    count: int,
    as_json: bool,
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
        found = losses(
            case.quantized,
            case.float_model,
            case.samples,
            indices,
            _progress("layers", listener.event),
        )
    saturating = saturating_layers(case.quantized, case.samples, indices) if case.saturates else {}
    report = _report(case, count, rungs, found, saturating)
    place = case.deploy.coordinates
    file = (
        HOME
        / "diagnose"
        / session.recipe.name
        / f"{place['model']}-{scheme}-{place['build']}-{where}.json"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    readable = file.with_suffix(".html")
    readable.write_text(page(report), encoding="utf-8")
    if as_json:
        print_json(report)
        return
    _print(report)
    print_text(f"\nall {len(report['layers'])} layers: {shown(file)}, {shown(readable)}")


def _progress(step: str, listen: Listener) -> Progress:
    def progress(done: float, total: float | None = None, unit: str = "") -> None:
        listen(Event(step, "progress", done=done, total=total, unit=unit))

    return progress


def _report(
    case: Case, count: int, rungs: Sequence[Rung], found: Losses, saturating: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "recipe": case.session.recipe.name,
        **case.deploy.coordinates,
        "samples": count,
        "ladder": [asdict(rung) for rung in rungs],
        "saturating": saturating,
        "sqnr_db": {"weights": found.weights, "activations": found.activations, "both": found.both},
        "layers": [asdict(layer) for layer in found.layers],
    }


def _print(report: Mapping[str, Any]) -> None:
    print_text(
        f"{report['scheme']} of {report['model']} on {report['device']}, {report['samples']} evaluation samples\n"
    )
    metrics, rows = ladder_cells(report)
    print_table(["rung", *metrics, "samples", ""], rows, [*metrics, "samples"])
    for line in saturation_lines(report):
        print_text(f"\n{line}")
    print_text(f"\n{outputs_line(report)}\n")
    print_table(LAYER_COLUMNS, map(layer_cells, report["layers"][:TOP]), LAYER_NUMBERS)
