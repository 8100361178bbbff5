"""new and schema: what one begins with."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.errors import RecipeError
from qpipe.recipe import inventory, json_schema, yaml_document
from qpipe.recipe.yaml_document import shown
from qpipe.stages import registry
from qpipe.start import demo
from qpipe.start.feeding import Asked, Numbers
from qpipe.start.network_facts import Picture, Tensor
from qpipe.start.network_family import Size
from qpipe.start.recipe_text import plain, stub
from qpipe.start.sample_sources import KINDS

if TYPE_CHECKING:
    from qpipe.start.new_recipe import Begun

DEMO = Path("qpipe-demo")
RECIPE = Path("recipe.yaml")
FEW = 5  # operators and nodes that are named


def schema(of_inventory: bool, plugins: Sequence[Path]) -> None:
    """Print the JSON Schema of recipes, or of inventories."""
    found = registry.load(plugins)
    print_json(json_schema.inventory(found) if of_inventory else json_schema.recipe(found))


def unpack(out: Path | None, force: bool) -> None:
    """Unpack the demo and say how to run it."""
    file = demo.unpack(out or DEMO, force)
    names = ", ".join(
        sorted(
            str(each.relative_to(file.parent)) for each in file.parent.rglob("*") if each.is_file()
        )
    )
    print_text(f"{shown(file.parent)}: {names}")
    print_text(
        f"a MobileNet-SSD detector and what it is measured on; 3 minutes: qpipe run {shlex.quote(shown(file))}"
    )
    print_text("a recipe for a network of your own: qpipe new MODEL.onnx --samples images:DIR")


def new(
    model: Path,
    samples: str | None,
    out: Path | None,
    labels: Path | None,
    counts: Mapping[str, int | None],
    asked: Sequence[str | None],
    devices: Sequence[str],
    force: bool,
) -> None:
    """Write a recipe for a network; print what was seen and what to do next. `asked` are size, mean and std as texts,
    `counts` how many samples to take."""
    if samples is None:
        kinds = ", ".join(f"{kind}:PATH" for kind in KINDS)
        raise RecipeError(f"--samples is missing; give what to calibrate and evaluate on: {kinds}")
    from qpipe.start.new_recipe import Wish, begin

    file = out or RECIPE
    known = inventory.load(inventory.find(None, file.parent), registry.load())
    absent = [
        yaml_document.name(name, "--device", "device") for name in devices if name not in known
    ]
    taken = {name: count for name, count in counts.items() if count is not None}
    size, mean, std = asked
    how = Asked(_size(size), _numbers("--mean", mean), _numbers("--std", std))
    begun = begin(Wish(model, samples, file, labels, taken, how, devices, absent, force))
    print_table(("seen", ""), _seen(begun))
    _print_next(begun)


def _size(text: str | None) -> Size | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise RecipeError(
            f"--size {text}: no size; give pixels, or HEIGHTxWIDTH, as 224 or 320x640"
        )
    return int(sides[0]), int(sides[-1])


def _numbers(option: str, text: str | None) -> Numbers | None:
    if text is None:
        return None
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if (
        len(numbers) not in (1, 3)
        or not all(map(math.isfinite, numbers))
        or (option == "--std" and 0 in numbers)
    ):
        raise RecipeError(
            f"{option} {text}: no {option[2:]}; give one number, or three as 123.7,116.3,103.5"
        )
    return numbers[0] if len(numbers) == 1 else numbers


# ---- what was seen


def _seen(begun: Begun) -> list[tuple[str, str]]:
    draft = begun.draft
    covered = begun.covered
    network = draft.network
    source = draft.source
    made = f", by {network.producer}" if network.producer else ""
    rows = [
        ("file", f"{shown(network.path)}: {network.size / 1e6:.2f} MB{made}"),
        ("versions", f"opset {network.opset}, IR {network.ir_version}"),
        *(("input", _told(value, draft.shapes, network.picture)) for value in network.inputs),
        *(("output", _told(value, {}, None)) for value in begun.outputs),
        ("parameters", f"{network.parameters:,}"),
        ("operators", _counts(network.operators)),
        ("looks like", draft.guess.words),
        (
            "integer",
            _counts(covered.integer) or "nothing: no scheme will be smaller or faster than float",
        ),
        ("float", covered.told().removeprefix("stays float: ") or "nothing"),
        ("samples", ", ".join(f"{name} {shown(path)}" for name, path in source.paths.items())),
    ]
    if network.is_quantized:
        rows.append(("quantized", "already: its float network tells more, where there is one"))
    if source.labels:
        rows.append(("labels", source.labels.told))
    return [(name, plain(text)) for name, text in rows]


def _told(value: Tensor, shapes: Mapping[str, Sequence[int]], picture: Picture | None) -> str:
    pinned = f", pinned to {list(shapes[value.name])}" if value.name in shapes else ""
    return f"{value}{pinned}, pictures as {picture.layout}" if picture else f"{value}{pinned}"


def _counts(operators: Mapping[str, int]) -> str:
    most = sorted(operators.items(), key=lambda each: -each[1])
    rest = sum(count for _, count in most[FEW:])
    return ", ".join(f"{count} {name}" for name, count in most[:FEW]) + (
        f" and {rest} others" if rest else ""
    )


def _print_next(begun: Begun) -> None:
    draft = begun.draft
    tried = begun.trial
    file = shlex.quote(shown(draft.file))
    if tried.misfit:
        print_text(f"\nthe network cannot be fed with the samples yet: {tried.misfit}")
    for name, score in tried.scores.items():
        print_text(
            f"\nthe float network scores {name} {score.value:.3f} on {tried.count} of the samples;"
        )
        print_text("if that is less than it should be, look at the preprocessing first")
    if draft.why_not:
        print_text(f"\nonly {draft.goal} is scored: {plain(draft.why_not)}")
    for name in draft.absent:
        print_text(
            f"\nno device '{name}' yet; put into devices.yaml beside the recipe:\n  {stub(name)}"
        )
    checks = [setting.name for setting in draft.settings if setting.check]
    marked = f"; what the files do not say is marked CHECK: {', '.join(checks)}" if checks else ""
    print_text(f"\n{shown(draft.file)} is written{marked}")
    print_text(
        f"next: qpipe samples {file}   (what the network really sees)   then: qpipe run {file}"
    )
    if draft.metric:
        print_text(
            f"and set expect: {{{draft.goal}: ...}} in it to what the float network should score"
        )
