"""qpipe diagnose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpipe.cli.completions import complete_device, complete_scheme
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    BuildOption,
    CacheOption,
    DbOption,
    JsonOption,
    ModelOption,
    RecipeArgument,
    RecipeInventoryOption,
    SettingsOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qpipe.cli.progress_display import ProgressDisplay
    from qpipe.diagnose.ladder import Rung
    from qpipe.diagnose.layer_errors import Losses
    from qpipe.diagnose.scheme_networks import Case
    from qpipe.engine.events import Listener
    from qpipe.storage.results import Store
    from qpipe.types import Progress

SHOWN_LAYERS = 10  # the worst layers, in the table


def diagnose(
    recipe: RecipeArgument,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="The scheme to diagnose.",
            show_default=False,
            autocompletion=complete_scheme,
        ),
    ],
    model: ModelOption = None,
    build: BuildOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="The device; by default the first of the recipe.",
            autocompletion=complete_device,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="The number of evaluation samples.")
    ] = 16,
    settings: SettingsOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Show where a scheme loses accuracy, from float to the device and layer by layer.

    Each layer comes with what to try.
    """
    from qpipe.cli.progress_display import open_display
    from qpipe.diagnose.scheme_networks import make_case
    from qpipe.engine.request import Request, resolve_request
    from qpipe.recipe.yaml_document import shown
    from qpipe.storage.results import Store

    request = Request(
        recipe=recipe,
        settings=parse_settings(settings),
        devices=[device] if device else (),
        only=[scheme],
        inventory=inventory,
        db=db,
        cache=cache,
    )
    with open_display() as display:
        resolved = resolve_request(request)
        with Store(db) as store:
            device_name = device or next(iter(resolved.devices))
            case = make_case(
                resolved,
                store,
                scheme=scheme,
                model=model,
                build=build,
                device=device_name,
                listen=display.event,
            )
            report = _diagnose_case(case, store, count, display)
    files = _write_report(case, report)
    if as_json:
        print_json(report)
        return
    _print_report(report)
    layer_count = len(report["layers"])
    file_names = ", ".join(shown(file) for file in files)
    print_text(f"\nall {layer_count} layers: {file_names}")


def _diagnose_case(
    case: Case, store: Store, count: int, display: ProgressDisplay
) -> dict[str, Any]:
    """Score the ladder and each layer on `count` evaluation samples; return the diagnosis."""
    from qpipe.diagnose.ladder import climb
    from qpipe.diagnose.layer_errors import losses
    from qpipe.diagnose.scheme_networks import single_inferences

    indices = _spread_indices(len(case.samples), count)
    ladder_progress = _progress("ladder", display.event)
    rungs = climb(case, store, indices, ladder_progress, display.announce)
    layer_progress = _progress("layers", display.event)
    chain = case.resolved.recipe.schemes[case.deploy.coordinates["scheme"]]
    with single_inferences(case, indices) as samples:
        everything = _spread_indices(len(samples), max(count, len(indices)))
        layer_losses = losses(
            case.quantized, case.float_model, samples, everything, layer_progress, chain
        )
    return _make_report(case, len(indices), rungs, layer_losses)


def _write_report(case: Case, report: dict[str, Any]) -> tuple[Path, Path]:
    """Write a diagnosis as JSON and as a page; return both files."""
    import json

    from qpipe.engine.request import HOME
    from qpipe.report.diagnosis_page import page

    coordinates = case.deploy.coordinates
    stem = "-".join(coordinates[name] for name in ("model", "scheme", "build", "device"))
    folder = HOME / "diagnose" / case.resolved.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / f"{stem}.json"
    json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page_file = folder / f"{stem}.html"
    page_file.write_text(page(report), encoding="utf-8")
    return json_file, page_file


def _spread_indices(total: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spread over `total` samples."""
    count = min(count, total)
    return [position * total // count for position in range(count)]


def _progress(step: str, listen: Listener) -> Progress:
    """Return a progress callback that makes events of a step."""
    from qpipe.engine.events import Event

    def progress(done: float, total: float | None = None, unit: str = "") -> None:
        listen(Event(step, "progress", done=done, total=total, unit=unit))

    return progress


def _make_report(
    case: Case, count: int, rungs: Sequence[Rung], layer_losses: Losses
) -> dict[str, Any]:
    """Return the diagnosis as JSON."""
    from dataclasses import asdict

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


def _print_report(report: Mapping[str, Any]) -> None:
    """Print the ladder and the worst layers."""
    from qpipe.report.diagnosis_page import (
        LAYER_COLUMNS,
        LAYER_NUMBERS,
        ladder_cells,
        layer_cells,
        outputs_line,
    )

    print_text(
        f"{report['scheme']} of {report['model']} on {report['device']}, "
        f"{report['samples']} evaluation samples\n"
    )
    metrics, rows = ladder_cells(report)
    print_table(["rung", *metrics, "samples", ""], rows, right=[*metrics, "samples"])
    print_text(f"\n{outputs_line(report)}\n")
    layer_rows = [layer_cells(layer) for layer in report["layers"][:SHOWN_LAYERS]]
    print_table(LAYER_COLUMNS, layer_rows, right=LAYER_NUMBERS)
