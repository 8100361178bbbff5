"""Where a scheme loses accuracy, from float to the device and layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.diagnose.ladder import Rung, climb
from qpipe.diagnose.layer_errors import Losses, losses
from qpipe.diagnose.scheme_networks import Case, single_inferences
from qpipe.engine.events import Event, Listener, Notify
from qpipe.report.diagnosis_page import (
    LAYER_COLUMNS,
    LAYER_NUMBERS,
    ladder_cells,
    layer_cells,
    outputs_line,
    page,
)
from qpipe.report.text_table import TextTable
from qpipe.storage.results import Store
from qpipe.storage.workspace import HOME

if TYPE_CHECKING:
    from qpipe.types import Progress

SHOWN_LAYERS = 10  # the worst layers, in the table


@dataclass(frozen=True)
class Diagnosis:
    """Where a scheme loses accuracy; it lies in two files, as JSON and as a page."""

    content: Mapping[str, Any]  # as `qpipe diagnose --json` prints it
    files: Sequence[Path]

    @property
    def ladder(self) -> TextTable:
        """The scores of the network on its way from float to the device, rung by rung."""
        title = (
            f"{self.content['scheme']} of {self.content['model']} on {self.content['device']}, "
            f"{self.content['samples']} evaluation samples\n"
        )
        metrics, rows = ladder_cells(self.content)
        columns = ["rung", *metrics, "samples", ""]
        lines = ["", outputs_line(self.content), ""]
        return TextTable(title, columns, rows, right=[*metrics, "samples"], lines=lines)

    @property
    def layers(self) -> TextTable:
        """The worst layers, with what to try."""
        rows = [layer_cells(layer) for layer in self.content["layers"][:SHOWN_LAYERS]]
        return TextTable("", LAYER_COLUMNS, rows, right=LAYER_NUMBERS)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe diagnose --json` prints it."""
        return {**self.content}


def diagnose_case(
    case: Case, store: Store, count: int, listen: Listener, notify: Notify
) -> Diagnosis:
    """Score the ladder and each layer on `count` evaluation samples, and write the files."""
    indices = _spread_indices(len(case.samples), count)
    rungs = climb(case, store, indices, _progress("ladder", listen), notify)
    layer_progress = _progress("layers", listen)
    chain = case.resolved.recipe.schemes[case.deploy.coordinates["scheme"]]
    with single_inferences(case, indices) as samples:
        everything = _spread_indices(len(samples), max(count, len(indices)))
        layer_losses = losses(
            case.quantized, case.float_model, samples, everything, layer_progress, chain
        )
    content = _content(case, len(indices), rungs, layer_losses)
    return Diagnosis(content, _write_files(case, content))


def _write_files(case: Case, content: Mapping[str, Any]) -> list[Path]:
    coordinates = case.deploy.coordinates
    stem = "-".join(coordinates[name] for name in ("model", "scheme", "build", "device"))
    folder = HOME / "diagnose" / case.resolved.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / f"{stem}.json"
    json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page_file = folder / f"{stem}.html"
    page_file.write_text(page(content), encoding="utf-8")
    return [json_file, page_file]


def _spread_indices(total: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spread over `total` samples."""
    count = min(count, total)
    return [position * total // count for position in range(count)]


def _progress(step: str, listen: Listener) -> Progress:
    """Return a progress callback that makes events of a step."""

    def progress(done: float, total: float | None = None, unit: str = "") -> None:
        listen(Event(step, "progress", done=done, total=total, unit=unit))

    return progress


def _content(case: Case, count: int, rungs: Sequence[Rung], layer_losses: Losses) -> dict[str, Any]:
    """Return the diagnosis as JSON."""
    return {
        "recipe": case.resolved.recipe.name,
        **case.deploy.coordinates,
        "key": case.deploy.key,
        "samples": count,
        "ladder": [asdict(rung) for rung in rungs],
        "sqnr_db": {
            "weights": layer_losses.weights,
            "activations": layer_losses.activations,
            "both": layer_losses.both,
        },
        "layers": [asdict(layer) for layer in layer_losses.layers],
    }
