"""`qpipe new`: from an ONNX file and samples to a recipe that was loaded and tried."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.quant.coverage import Coverage, coverage
from qpipe.stages import registry
from qpipe.start.feeding import picture_size, sample_settings
from qpipe.start.feeding_choice import FeedingChoice
from qpipe.start.input_shapes import deciding_values, pinned_shapes
from qpipe.start.label_numbering import plausible_numberings
from qpipe.start.network_facts import UNNAMED, Tensor, read_network
from qpipe.start.network_family import Size, guess_family
from qpipe.start.recipe_file import write_and_try
from qpipe.start.recipe_text import Draft
from qpipe.start.sample_sources import Labels, find_samples
from qpipe.start.scalings import Preferences
from qpipe.start.trial_run import Trial

# families whose outputs are answers, so that agreement with float can be scored
FAMILIES_WITH_ANSWERS = ("classifier", "ssd", "yolo", "maps", "detections")


@dataclass(frozen=True)
class NewRecipeRequest:
    """What a user asks of `qpipe new`."""

    model: Path
    samples: str
    out: Path
    labels: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # option -> number of samples
    preferences: Preferences = field(default_factory=Preferences)
    devices: Sequence[str] = ()
    absent: Sequence[str] = ()  # devices that are in no inventory
    force: bool = False


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that has been written, and what it was written from."""

    draft: Draft
    outputs: Sequence[Tensor]  # of the network as it will run
    covered: Coverage
    trial: Trial
    choice: FeedingChoice | None  # of the feedings that labels let it score


def write_new_recipe(
    request: NewRecipeRequest, notify: Callable[[str], None] = lambda _: None
) -> NewRecipe:
    """Write a recipe, load it and try it; nothing is left where one of these fails.

    `notify` gets what takes long.
    """
    check_place(request.out, request.force)
    network = read_network(request.model)
    input_types = {value.name: value.dtype for value in network.inputs}
    source = find_samples(request.samples, request.labels, dict(request.counts), input_types)
    plugins = registry.load()
    shapes = pinned_shapes(network, source, request.preferences, plugins)
    import_onnx = plugins.stage("import", "onnx").function
    values = deciding_values(network, source, request.preferences, plugins)
    model: ir.Model = import_onnx(
        path=request.model, shapes=dict(shapes) or None, values=values or None
    )
    inputs = _tensors(model.graph.inputs)
    names = {size for value in inputs for size in value.shape}
    outputs = _tensors(model.graph.outputs, names)
    first_shape = [length if isinstance(length, int) else 1 for length in inputs[0].shape]
    size = picture_size(network.picture, first_shape) if network.picture else None
    _check_size(size, request.preferences.size)
    guess = guess_family(inputs, outputs, network.ends, size)
    draft = Draft(
        file=request.out,
        network=network,
        guess=guess,
        source=source,
        settings=sample_settings(network, guess, first_shape, source, request.preferences),
        shapes=shapes,
        values=values,
        devices=request.devices,
        absent=request.absent,
    )
    draft, trial, choice = write_and_try(_with_accuracy(draft), model, request.preferences, notify)
    return NewRecipe(draft, outputs, coverage(model), trial, choice)


def check_place(out: Path, force: bool) -> None:
    """Raise RecipeError where nothing can be written, or a file would be lost."""
    fix = "give the path of a new file in a folder that exists"
    if out.is_dir():
        raise RecipeError(f"--out {out}: is a folder; {fix}")
    if not out.parent.is_dir():
        raise RecipeError(f"--out {out}: there is no folder {out.parent}; {fix}")
    if out.exists() and not force:
        raise RecipeError(f"{out}: exists already; give another --out, or --force to replace it")


def _check_size(size: Size | None, preferred: Size | None) -> None:
    if preferred is None or size == preferred:
        return
    takes = f"{size[0]}x{size[1]}" if size else "no pictures"
    reason = f"--size {preferred[0]}x{preferred[1]}: the network takes {takes}"
    raise RecipeError(f"{reason}; leave --size out")


def _tensors(
    values: Iterable[ir.Value], names: Collection[int | str] | None = None
) -> list[Tensor]:
    """Return what tensors are; with `names`, open sizes of other names count as unnamed."""
    tensors: list[Tensor] = []
    for value in values:
        shape: list[int | str] = []
        for size in value.shape or ():
            is_named = names is None or str(size) in names
            shape.append(size if isinstance(size, int) else str(size) if is_named else UNNAMED)
        dtype = value.dtype.numpy().name if value.dtype is not None else "untyped"
        tensors.append(Tensor(value.name or "", dtype, tuple(shape)))
    return tensors


# ---- accuracy


def _with_accuracy(draft: Draft) -> Draft:
    """Add the postprocess, metric and objective that network and samples allow."""
    guess = draft.guess
    source = draft.source
    goal = "agreement" if guess.name in FAMILIES_WITH_ANSWERS else "sqnr_db"
    draft = replace(draft, goal=goal, postprocess=guess.postprocess or None)
    if guess.name == "classifier" and source.labels:
        return _with_top1(draft, source.labels)
    if guess.name == "classifier" and source.kind == "npz" and source.options:
        return replace(draft, metric="topk", goal="top1")
    if source.kind != "coco":
        return draft
    if guess.postprocess:
        return replace(draft, metric="coco_map", goal="map50")
    reason = (
        "boxes are scored once a postprocess reads them from the outputs: see yolo_boxes and "
        "ssd_boxes in the list of qpipe plugins, then add postprocess and metric: coco_map"
    )
    return replace(draft, why_not=reason)


def _with_top1(draft: Draft, labels: Labels) -> Draft:
    """Score top-1 where the labels can be those of the network's classes."""
    classes = draft.guess.classes
    numberings = plausible_numberings(labels, classes)
    if numberings:
        return replace(draft, metric=numberings[0].metric, goal="top1")
    reason = (
        f"labels are {labels.description}, the network gives {classes} scores: "
        "label 0 must be that of the first score"
    )
    return replace(draft, why_not=reason)
