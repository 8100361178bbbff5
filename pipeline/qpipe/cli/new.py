"""qpipe new."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.tables import print_table, print_text
from qpipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.start.network_family import Size
    from qpipe.start.scalings import Numbers

DEFAULT_RECIPE = Path("recipe.yaml")
DEFAULT_DEMO_FOLDER = Path("qpipe-demo")
CHANNELS = 3


def new(
    model: Annotated[
        Path | None,
        typer.Argument(help="The ONNX file; without it, the demo is unpacked.", show_default=False),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:PATH",
            help="The samples: images:DIR, coco:DIR, npz:DIR or wav:DIR. DIR holds the folders "
            "calibration and evaluation (or train and val), or the samples for both.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Measure on this device; repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The recipe to write, by default recipe.yaml; or the folder of the demo, "
            "by default qpipe-demo.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV file with the columns file,label, for evaluation."),
    ] = None,
    calibration_count: Annotated[
        int | None, typer.Option(min=1, help="The number of calibration samples.")
    ] = None,
    evaluation_count: Annotated[
        int | None, typer.Option(min=1, help="The number of evaluation samples.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="The height and width of images where the network leaves them open, "
            "or HEIGHTxWIDTH.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="The mean that is subtracted from pixels of 0 to 255, or X,Y,Z by channel.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="The standard deviation that they are then divided by, or X,Y,Z by channel.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a recipe for an ONNX file and try it, or unpack the demo."""
    if model is None:
        _unpack_demo(out or DEFAULT_DEMO_FOLDER, force=force)
        return
    from qpipe.cli.new_recipe_report import (
        feeding_columns,
        feeding_table,
        network_table,
        next_steps,
    )
    from qpipe.engine.own_process import run_in_own_process
    from qpipe.start.new_recipe import NewRecipeRequest, write_new_recipe
    from qpipe.start.scalings import Preferences

    if samples is None:
        raise _missing_samples()
    file = out or DEFAULT_RECIPE
    devices = device or ()
    unknown_devices = _find_unknown_devices(devices, file.parent)
    counts = {"calibration_count": calibration_count, "evaluation_count": evaluation_count}
    preprocessing = Preferences(
        _parse_size(size), _parse_numbers("mean", mean), _parse_numbers("std", std)
    )
    request = NewRecipeRequest(
        model=model,
        samples=samples,
        out=file,
        labels=labels,
        counts={option: count for option, count in counts.items() if count is not None},
        preferences=preprocessing,
        devices=devices,
        absent=unknown_devices,
        force=force,
    )
    new_recipe = run_in_own_process(
        write_new_recipe, request, lambda line: typer.echo(line, err=True), str(model)
    )
    print_table(("found", ""), network_table(new_recipe))
    if new_recipe.choice is not None:
        print_text()
        columns = feeding_columns(new_recipe.choice)
        print_table(columns, feeding_table(new_recipe.choice), right=columns[1:])
    for line in next_steps(new_recipe):
        print_text(line)


def _unpack_demo(folder: Path, *, force: bool) -> None:
    from qpipe.errors import shown
    from qpipe.start import demo

    recipe = demo.unpack(folder, force)
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(str(file.relative_to(folder)) for file in files)
    print_text(f"{shown(folder)}: {', '.join(names)}")
    print_text(
        "a MobileNet-SSD detector and the samples it is measured on; "
        f"run it in 6 minutes: qpipe run {shlex.quote(shown(recipe))}"
    )
    print_text("write a recipe for your own network: qpipe new MODEL.onnx --samples images:DIR")


def _missing_samples() -> RecipeError:
    from qpipe.start.sample_sources import KINDS

    kinds = ", ".join(f"{kind}:PATH" for kind in KINDS)
    return RecipeError(
        f"--samples is missing; give the samples to calibrate and evaluate on: {kinds}"
    )


def _find_unknown_devices(names: Sequence[str], folder: Path) -> list[str]:
    """Return the devices that are not in the inventory of a recipe in this folder."""
    from qpipe.recipe import inventory
    from qpipe.recipe.pools import checked_word, is_pool
    from qpipe.stages import registry

    known_devices = inventory.load(inventory.find(None, folder), registry.load())
    unknown_names = [name for name in names if name not in known_devices]
    return [name for name in unknown_names if not is_pool(checked_word(name, "--device"))]


def _parse_size(text: str | None) -> Size | None:
    """Return height and width of N or HEIGHTxWIDTH."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise RecipeError(
            f"--size {text}: not a size; give pixels, or HEIGHTxWIDTH, such as 224 or 320x640"
        )
    return int(sides[0]), int(sides[-1])


def _parse_numbers(option: str, text: str | None) -> Numbers | None:
    """Return one number, or one for each channel; those of std must not be 0."""
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    has_valid_length = len(numbers) in (1, CHANNELS)
    has_invalid_zero = option == "std" and 0 in numbers
    if not has_valid_length or not all(map(math.isfinite, numbers)) or has_invalid_zero:
        raise RecipeError(
            f"--{option} {text}: not a valid {option}; "
            "give one number, or three such as 123.7,116.3,103.5"
        )
    return numbers[0] if len(numbers) == 1 else numbers
