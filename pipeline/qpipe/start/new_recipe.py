"""`qpipe new`: from an ONNX file and samples to a recipe that was loaded and tried."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.quant.coverage import Coverage, coverage
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry
from qpipe.stages.registry import Registry
from qpipe.start.feeding import picture_size, sample_settings
from qpipe.start.feeding_choice import PICTURE_KINDS, FeedingChoice
from qpipe.start.label_numbering import plausible_numberings
from qpipe.start.network_facts import Network, Picture, Tensor, read_network
from qpipe.start.network_family import Family, Size, guess_family
from qpipe.start.picture_sizes import accepted_shape, common_size, rounded_up
from qpipe.start.recipe_file import write_and_try
from qpipe.start.recipe_text import Draft
from qpipe.start.sample_sources import Labels, SampleSource, find_samples
from qpipe.start.scalings import Preferences
from qpipe.start.trial_run import Trial, first_sample
from qpipe.types import Array

# height and width of pictures where nothing tells them
USUAL_SIDE = 224
USUAL_DETECTOR_SIDE = 640
# families whose outputs are answers, so that agreement with float can be scored
FAMILIES_WITH_ANSWERS = ("classifier", "ssd", "yolo", "maps")


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
    outputs: Sequence[Tensor]  # of the network as it will run: no dimension is open
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
    outputs = _tensors(model.graph.outputs)
    first_shape = [int(length) for length in inputs[0].shape] if inputs else []
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


def _tensors(values: Iterable[ir.Value]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for value in values:
        shape = [length if isinstance(length, int) else "?" for length in value.shape or ()]
        dtype = value.dtype.numpy().name if value.dtype is not None else "untyped"
        tensors.append(Tensor(value.name or "", dtype, tuple(shape)))
    return tensors


# ---- shapes


def pinned_shapes(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> dict[str, list[int]]:
    """Return a shape for each input that one sample does not have as the file states it.

    It is that of the samples; pictures of files get the preferred size, or their common one, or
    else the usual one.
    """
    if not any(value.may_need_shape for value in network.inputs):
        return {}
    picture = network.picture
    if picture is not None and source.kind in PICTURE_KINDS:
        return {picture.name: _picture_shape(picture, network, source, preferences)}
    shapes = _shapes_of_samples(network, source, preferences, plugins)
    pinned: dict[str, list[int]] = {}
    for value in network.inputs:
        if value.may_need_shape and shapes[value.name] != list(value.shape):
            pinned[value.name] = shapes[value.name]
    return pinned


def _picture_shape(
    picture: Picture, network: Network, source: SampleSource, preferences: Preferences
) -> list[int]:
    """Return the shape of one picture, with sizes for the sides that the network leaves open.

    Pictures that are all of one size keep it where the network runs on it, made a little larger
    where it runs on that alone.
    """
    gives_tables = any(len(value.shape) == 3 for value in network.outputs)
    usual_side = USUAL_DETECTOR_SIDE if gives_tables else USUAL_SIDE
    sizes = [(usual_side, usual_side)]
    is_open = picture.height is None or picture.width is None
    folder = source.paths.get("images", source.paths.get("evaluation"))
    if preferences.size:
        sizes = [preferences.size]
    elif is_open and folder is not None:
        size = common_size(folder)
        if size is not None:
            sizes = [size, rounded_up(size), *sizes]
    shapes = [_shape_of_size(picture, size) for size in sizes]
    return accepted_shape(network.path, picture.name, shapes, picture.dtype)


def _shape_of_size(picture: Picture, size: Size) -> list[int]:
    """Return the shape of one picture; sides that the network fixes stay as they are."""
    height = picture.height or size[0]
    width = picture.width or size[1]
    if picture.layout == "NCHW":
        return [1, picture.channels, height, width]
    return [1, height, width, picture.channels]


def _shapes_of_samples(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> dict[str, list[int]]:
    """Return the shapes of the first sample as it would be fed, by input."""
    feeds = _first_feeds(network, source, preferences, plugins)
    return {name: list(array.shape) for name, array in feeds.items()}


def _first_feeds(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> Mapping[str, Array]:
    """Return the first sample as it would be fed, by input."""
    shape = [length if isinstance(length, int) else 1 for length in network.inputs[0].shape]
    unknown = Family("unknown", "")
    settings = sample_settings(network, unknown, shape, source, preferences)
    options = {**source.paths, **source.counts}
    for setting in settings:
        options[setting.name] = setting.value
    call = Call(plugins.stage("samples", source.kind), options)
    with tempfile.TemporaryDirectory() as folder:
        samples = first_sample(call, Path(folder))
        return samples.feeds(0, {value.name: value.shape for value in network.inputs})


def deciding_values(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> dict[str, int]:
    """Return the number that samples feed each whole number, where a network has branches.

    A sampling rate may decide which of them is taken.
    """
    numbers = [value for value in network.inputs if value.is_whole_number]
    if not numbers or "If" not in network.operators:
        return {}
    feeds = _first_feeds(network, source, preferences, plugins)
    return {value.name: int(feeds[value.name].item()) for value in numbers}


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
