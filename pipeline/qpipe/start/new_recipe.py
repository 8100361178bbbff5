"""From an ONNX file and samples to a recipe that was loaded and tried before it is put in its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.quant.coverage import Coverage, coverage
from qpipe.recipe import recipe
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry
from qpipe.stages.registry import Registry
from qpipe.start import trial_run
from qpipe.start.feeding import Asked, settings, size_of
from qpipe.start.network_facts import Network, Tensor, read
from qpipe.start.network_family import Family, Size, family
from qpipe.start.recipe_text import Draft, text
from qpipe.start.sample_sources import Source, find
from qpipe.start.trial_run import Trial

USUAL = 224  # height and width of pictures where nothing says them
USUAL_OF_DETECTORS = 640


@dataclass(frozen=True)
class Wish:
    """What a user asks of `qpipe new`."""

    model: Path
    samples: str
    out: Path
    labels: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # calibrate, evaluate
    asked: Asked = field(default_factory=Asked)
    devices: Sequence[str] = ()
    absent: Sequence[str] = ()  # those that are in no inventory
    force: bool = False


@dataclass(frozen=True)
class Begun:
    """A recipe that lies there now, and what it was written from."""

    draft: Draft
    outputs: Sequence[Tensor]  # of the network as it will run: no dimension is open
    covered: Coverage
    trial: Trial


def begin(wish: Wish) -> Begun:
    """Look, guess, write, load, try, put in place; nothing is left where one of them fails."""
    check_place(wish.out, wish.force)
    network = read(wish.model)
    source = find(
        wish.samples, wish.labels, dict(wish.counts), [value.name for value in network.inputs]
    )
    plugins = registry.load()
    shapes = pinned(network, source, wish.asked, plugins)
    model: ir.Model = plugins.stage("import", "onnx").function(
        path=wish.model, shapes=dict(shapes) or None
    )
    inputs, outputs = (
        [_tensor(value) for value in values] for values in (model.graph.inputs, model.graph.outputs)
    )
    first = [int(length) for length in inputs[0].shape] if inputs else []
    size = size_of(network.picture, first) if network.picture else None
    if wish.asked.size and size != wish.asked.size:
        raise RecipeError(
            f"--size {_times(wish.asked.size)}: the network takes {_times(size)}; leave --size out"
        )
    guess = family(inputs, outputs, network.ends, size)
    own = settings(network, guess, first, source, wish.asked)
    draft = _scored(Draft(wish.out, network, guess, source, own, shapes, wish.devices, wish.absent))
    draft, tried = _placed(draft, model)
    return Begun(draft, outputs, coverage(model), tried)


def check_place(out: Path, force: bool) -> None:
    """RecipeError where nothing can be written there, or something would be lost."""
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise RecipeError(
            f"--out {out}: {what}; give the path of a new file in a folder that exists"
        )
    if out.exists() and not force:
        raise RecipeError(f"{out}: exists already; give another --out, or --force to replace it")


def _times(size: Size | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "no pictures"


def _tensor(value: ir.Value) -> Tensor:
    shape = tuple(length if isinstance(length, int) else "?" for length in value.shape or ())
    return Tensor(
        value.name or "", value.dtype.numpy().name if value.dtype is not None else "untyped", shape
    )


# ---- shapes


def pinned(
    network: Network, source: Source, asked: Asked, plugins: Registry
) -> dict[str, list[int]]:
    """A shape for each input that has open dimensions, or takes several samples at once: one sample of the size asked
    for, or of the usual one; of what is no picture, the shape of the samples."""
    wanting = [value for value in network.inputs if value.is_open]
    if not wanting:
        return {}
    found = network.picture
    if found is not None:
        tables = any(len(value.shape) == 3 for value in network.outputs)
        usual = USUAL_OF_DETECTORS if tables else USUAL
        height, width = asked.size or (found.height or usual, found.width or usual)
        sizes = (
            [found.channels, height, width]
            if found.layout == "NCHW"
            else [height, width, found.channels]
        )
        return {found.name: [1, *sizes]}
    there = _shapes_of_samples(network, source, asked, plugins)
    return {value.name: there[value.name] for value in wanting if value.name in there}


def _shapes_of_samples(
    network: Network, source: Source, asked: Asked, plugins: Registry
) -> dict[str, list[int]]:
    """Of the first sample, as the network would be fed with it."""
    shape = [length if isinstance(length, int) else 1 for length in network.inputs[0].shape]
    own = settings(network, Family("unknown", ""), shape, source, asked)
    options = {**source.paths, **source.counts, **{each.name: each.value for each in own}}
    with tempfile.TemporaryDirectory() as folder:
        samples = trial_run.first(
            Call(plugins.stage("samples", source.kind), options), Path(folder)
        )
        fed = samples.feeds(0, [value.name for value in network.inputs])
        return {name: list(array.shape) for name, array in fed.items()}


# ---- accuracy


def _scored(draft: Draft) -> Draft:
    """With the postprocess and metric that its network and samples allow, and the objective that follows."""
    guess = draft.guess
    source = draft.source
    goal = "agreement" if guess.name in ("classifier", "ssd", "yolo", "maps") else "sqnr_db"
    draft = replace(draft, goal=goal, postprocess=guess.postprocess or None)
    if guess.name == "classifier" and source.labels:
        return _top1(draft)
    if guess.name == "classifier" and source.kind == "npz" and source.options:
        return replace(draft, metric="topk", goal="top1")
    if guess.postprocess and source.kind == "coco":
        return replace(draft, metric="coco_map", goal="map50")
    if source.kind == "coco":
        reason = "boxes are scored once a postprocess reads them from the outputs: see yolo_boxes and ssd_boxes in the "
        return replace(
            draft,
            why_not=f"{reason}list of qpipe plugins, then add postprocess and metric: coco_map",
        )
    return draft


def _top1(draft: Draft) -> Draft:
    """By labels, where they can be those of the network's classes."""
    labels = draft.source.labels
    classes = draft.guess.classes
    assert labels is not None
    count = labels.names or (labels.highest or 0) + 1
    if count == classes - 1 and classes == 1001:
        return replace(draft, metric={"topk": {"first": 1}}, goal="top1")
    if (labels.names and count == classes) or (not labels.names and count <= classes):
        behind = classes == 1001
        return replace(draft, metric={"topk": {"first": 1}} if behind else "topk", goal="top1")
    reason = f"labels are {labels.told}, the network gives {classes} scores: label 0 must be that of the first score"
    return replace(draft, why_not=reason)


# ---- placing


def _placed(draft: Draft, model: ir.Model) -> tuple[Draft, Trial]:
    """Write it aside, load it, try it; with less accuracy where that cannot be scored; then rename it."""
    aside = draft.file.with_name(f".{draft.file.name}.{os.getpid()}")
    try:
        while True:
            aside.write_text(text(draft), encoding="utf-8")
            try:
                loaded, _ = recipe.load(aside)
            except RecipeError as error:
                reason = str(error).replace(aside.name, draft.file.name)
                raise RecipeError(
                    f"what `qpipe new` would write does not load: {reason}"
                ) from error
            tried = trial_run.attempt(loaded, model)
            simpler = draft.plainer(tried.unscored) if tried.unscored else None
            if simpler is None:
                break
            draft = simpler
        aside.replace(draft.file)
    except OSError as error:
        raise RecipeError(
            f"--out {draft.file}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return draft, tried
