"""A trial of a recipe's network on a few of its samples, on the host: in float, and at 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from qpipe.compare.scoring import Scores
from qpipe.engine.float_reference import float_outputs
from qpipe.engine.float_scores import scores_by_metric, scoring_stages
from qpipe.errors import StageError
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.samples.selection import TRIAL_COUNT, take_evenly
from qpipe.samples.store import Samples
from qpipe.start.eight_bits import EightBits, try_eight_bits
from qpipe.types import Dataset, Measurement

COUNT_OPTION = "evaluation_count"


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    count: int = 0
    scores: Mapping[str, Measurement] = field(default_factory=dict)  # against targets, by metric
    misfit: str = ""  # why the network cannot be fed with the samples
    unscored: str = ""  # why accuracy cannot be scored as the recipe has it
    eight_bits: EightBits | None = None


def try_recipe(recipe: Recipe, model: ir.Model) -> Trial:
    """Feed the network and score it; raise StageError where samples cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        samples = trial_samples(recipe.samples, Path(folder))
        stage = scoring_stages(recipe)[0]
        scores = Scores([*stage.usual, *stage.metrics], stage.postprocess)
        outputs_by_sample = float_outputs(model, samples)
        for sample in samples:
            try:
                outputs = next(outputs_by_sample)
            except StageError as error:
                return Trial(len(samples), misfit=str(error))
            try:
                scores.add(sample, outputs, outputs)
            except StageError as error:
                return Trial(len(samples), unscored=str(error))
    names = {metric.name for metric in stage.target_metrics}
    by_metric = scores_by_metric(scores)
    target_scores = {name: by_metric[name] for name in names if name in by_metric}
    return Trial(len(samples), target_scores)


def with_eight_bits(trial: Trial, recipe: Recipe, model: ir.Model) -> Trial:
    """Return the trial with what 8 bits cost the network, where it can be fed."""
    if trial.misfit or trial.unscored:
        return trial
    with tempfile.TemporaryDirectory() as folder:
        samples = trial_samples(recipe.samples, Path(folder))
        return replace(trial, eight_bits=try_eight_bits(recipe, model, samples))


def trial_samples(call: Call, folder: Path) -> Samples:
    """Write a few evaluation samples of a stage to a folder, evenly spread.

    They are those that `qpipe samples` shows. Of a stage whose samples come as a stream, not more
    are read than that.
    """
    dataset = _dataset(call)
    if isinstance(dataset.evaluation, Sequence):
        chosen = take_evenly(dataset.evaluation, TRIAL_COUNT)
    else:
        dataset = _dataset(_shortened(call))
        chosen = list(dataset.evaluation)
    return Samples.write(folder, chosen, dataset.preprocessing, dataset.classes)


def _dataset(call: Call) -> Dataset:
    dataset: Dataset = call.stage.function(**call.resolved())
    return dataset


def _shortened(call: Call) -> Call:
    """Return the call of a samples stage with few samples for evaluation."""
    if COUNT_OPTION not in call.options:
        return call
    count = min(TRIAL_COUNT, call.options[COUNT_OPTION] or TRIAL_COUNT)
    return replace(call, options={**call.options, COUNT_OPTION: count})
