"""A recipe's float network on a handful of its samples, here and now: whether they fit, and what it scores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import onnx_ir as ir

from qpipe.compare.scoring import Scores
from qpipe.engine.float_reference import check_fit, float_outputs
from qpipe.errors import StageError
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.types import Measurement, Sample

SAMPLES = 16


@dataclass(frozen=True)
class Trial:
    """What came of it."""

    count: int = 0
    scores: Mapping[str, Measurement] = field(default_factory=dict)  # against targets, by metric
    misfit: str = ""  # why the network cannot be fed with the samples
    unscored: str = ""  # why accuracy cannot be scored as the recipe has it


def attempt(recipe: Recipe, model: ir.Model) -> Trial:
    """Feed and score; StageError where the samples themselves cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        samples = first(recipe.samples, Path(folder))
        try:
            check_fit(model, samples)
            outputs = float_outputs(model, samples, _silent)
        except StageError as error:
            return Trial(len(samples), misfit=str(error))
        own = next(call.resolved() for call in recipe.measure if call.name == "accuracy")
        metrics = [*own["always"], *own["metric"]]
        scores = Scores(metrics, own["postprocess"])
        try:
            for index in range(len(samples)):
                one = {name: arrays[index] for name, arrays in outputs.items()}
                scores.add(samples[index], one, one)
            found = {each.metric: each for each in scores.measurements()}
        except StageError as error:
            return Trial(len(samples), unscored=str(error))
    against = {metric.name: metric.against for metric in metrics}
    return Trial(
        len(samples), {name: each for name, each in found.items() if against[name] == "target"}
    )


def first(call: Call, folder: Path) -> Samples:
    """The first few evaluation samples of a stage, kept in a folder."""
    options = call.resolved()
    if "evaluate" in options:
        options["evaluate"] = min(SAMPLES, options["evaluate"] or SAMPLES)
    dataset = call.stage.function(**options)
    few: Iterable[Sample] = islice(dataset.evaluation, SAMPLES)
    return Samples.write(folder, few, dataset.preprocessing, dataset.classes)


def _silent(done: float, total: float | None = None, unit: str = "") -> None:
    """Nobody waits long enough to be told how far it is."""
