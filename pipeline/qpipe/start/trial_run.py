"""A trial of a recipe's float network on a few of its samples, on the host."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
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
from qpipe.types import Array, Measurement, Sample

TRIAL_SAMPLES = 16
COUNT_OPTION = "evaluation_count"


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    count: int = 0
    scores: Mapping[str, Measurement] = field(default_factory=dict)  # against targets, by metric
    misfit: str = ""  # why the network cannot be fed with the samples
    unscored: str = ""  # why accuracy cannot be scored as the recipe has it


def try_recipe(recipe: Recipe, model: ir.Model) -> Trial:
    """Feed the network and score it; raise StageError where samples cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        samples = first_samples(recipe.samples, Path(folder))
        try:
            check_fit(model, samples)
            outputs = list(float_outputs(model, samples))
        except StageError as error:
            return Trial(len(samples), misfit=str(error))
        try:
            scores = _target_scores(recipe, samples, outputs)
        except StageError as error:
            return Trial(len(samples), unscored=str(error))
        return Trial(len(samples), scores)


def _target_scores(
    recipe: Recipe, samples: Samples, outputs: Sequence[Mapping[str, Array]]
) -> dict[str, Measurement]:
    """Return the scores against targets of the recipe's accuracy stage."""
    accuracy = next(call for call in recipe.measure if call.name == "accuracy")
    options = accuracy.resolved()
    metrics = [*options["always"], *options["metric"]]
    scores = Scores(metrics, options["postprocess"])
    for index in range(len(samples)):
        scores.add(samples[index], outputs[index], outputs[index])
    target_metrics = {metric.name for metric in metrics if metric.against == "target"}
    return {
        measurement.metric: measurement
        for measurement in scores.measurements()
        if measurement.metric in target_metrics
    }


def first_samples(call: Call, folder: Path) -> Samples:
    """Write the first few evaluation samples of a stage to a folder."""
    options = call.resolved()
    if COUNT_OPTION in options:
        options[COUNT_OPTION] = min(TRIAL_SAMPLES, options[COUNT_OPTION] or TRIAL_SAMPLES)
    dataset = call.stage.function(**options)
    first: Iterable[Sample] = islice(dataset.evaluation, TRIAL_SAMPLES)
    return Samples.write(folder, first, dataset.preprocessing, dataset.classes)
