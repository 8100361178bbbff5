"""The samples of a model as its network is fed them, with the predictions of float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.compare.scoring import Scores
from qpipe.engine import stage_results
from qpipe.engine.float_reference import float_outputs
from qpipe.engine.float_scores import ScoringStage, scoring_stages
from qpipe.engine.plan import Plan, Step
from qpipe.engine.request import ResolvedRequest
from qpipe.errors import QpipeError, StageError
from qpipe.quant.network_inputs import network_inputs
from qpipe.report.samples_report import FedSample, SamplesOfModel
from qpipe.samples.sample_feeds import NetworkInputs
from qpipe.samples.selection import take_evenly
from qpipe.samples.store import Samples
from qpipe.types import Array, Measurement, Metric, Preprocessing, Sample

Postprocess = Callable[[Mapping[str, Array]], Any]


@dataclass(frozen=True)
class FloatNetwork:
    """A float network as imported, and what decodes its outputs."""

    model: ir.Model
    inputs: NetworkInputs
    postprocess: Postprocess | None


class ShownScores:
    """The scores of float against targets, on the samples that are shown.

    What a metric cannot score is no failure here: this is where to look for the reason.
    """

    def __init__(self, metrics: Sequence[Metric], postprocess: Postprocess | None) -> None:
        self.scores = Scores(metrics, postprocess)
        self.problem = ""

    def add(self, sample: Sample, outputs: Mapping[str, Array]) -> None:
        """Score the outputs for one sample."""
        if self.problem:
            return
        try:
            self.scores.add(sample, outputs, outputs)
        except StageError as error:
            self.problem = str(error)

    @property
    def measurements(self) -> list[Measurement]:
        """The scores; none where a sample could not be scored."""
        return [] if self.problem else self.scores.measurements()


def collect_samples(
    resolved: ResolvedRequest, plan: Plan, model_name: str, count: int
) -> SamplesOfModel:
    """Return `count` samples of each part of a model, run through its float network.

    The samples and the network must be in the cache.
    """
    samples_step = plan.steps[plan.samples[model_name]]
    import_step = plan.steps[plan.imported[model_name]]
    parts: Mapping[str, Samples] = _read_result(resolved, samples_step)
    model: ir.Model = _read_result(resolved, import_step)
    stages = scoring_stages(resolved.recipe)
    network = FloatNetwork(model, network_inputs(model), _find_postprocess(stages))
    evaluation = parts["evaluation"]
    scores = ShownScores(stages[0].target_metrics if stages else [], network.postprocess)
    fed_samples = _predict_some("calibration", parts["calibration"], network, count)
    fed_samples += _predict_some("evaluation", evaluation, network, count, scores)
    return SamplesOfModel(
        name=model_name,
        preprocessing=_preprocessing_by_input(evaluation, network.inputs),
        samples=fed_samples,
        class_names=evaluation.classes,
        sample_rate=_sample_rate(samples_step),
        has_postprocess=network.postprocess is not None,
        part_sizes={part: len(samples) for part, samples in parts.items()},
        scores=scores.measurements,
        unscored=scores.problem,
    )


def _read_result(resolved: ResolvedRequest, step: Step) -> Any:
    return stage_results.read(step.kind, resolved.cache.value_folder(step.kind, step.key))


def _sample_rate(samples_step: Step) -> int | None:
    """Return the option `rate` of a samples stage in Hz, where it has one."""
    if samples_step.call is None:
        return None
    rate = samples_step.call.options.get("rate")
    return rate if isinstance(rate, int) else None


def _predict_some(
    part: str,
    samples: Samples,
    network: FloatNetwork,
    count: int,
    scores: ShownScores | None = None,
) -> list[FedSample]:
    """Return some samples of a part, evenly spread, and score them where asked to."""
    selected = take_evenly(samples, count)
    fed_samples = []
    with tempfile.TemporaryDirectory() as folder:
        subset = Samples.write(Path(folder), selected, samples.preprocessing, samples.classes)
        for index, outputs in enumerate(float_outputs(network.model, subset)):
            fed_sample = _predict(part, subset, index, network, outputs)
            fed_samples.append(fed_sample)
            if scores is not None and not fed_sample.failure:
                scores.add(subset[index], outputs)
    return fed_samples


def _predict(
    part: str,
    samples: Samples,
    index: int,
    network: FloatNetwork,
    outputs: Mapping[str, Array],
) -> FedSample:
    """Return one sample with its postprocessed outputs, or with why the postprocess failed."""
    sample = samples[index]
    prediction: Any = outputs
    failure = ""
    if network.postprocess:
        try:
            prediction = network.postprocess(outputs)
        except Exception as error:  # noqa: BLE001  (foreign code, whose failures the page shows)
            is_own = isinstance(error, QpipeError)
            reason = str(error) if is_own else f"{type(error).__name__}: {error}"
            failure = f"the postprocess failed: {reason}"
    return FedSample(
        id=sample.id,
        part=part,
        inputs=_with_first_axis(samples.sequence(index, network.inputs).sample_inputs()),
        target=sample.target,
        prediction=prediction,
        failure=failure,
    )


def _with_first_axis(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs with a first axis of 1, which those without a batch lack."""
    return {
        name: array if array.shape[:1] == (1,) else array[np.newaxis]
        for name, array in inputs.items()
    }


def _preprocessing_by_input(samples: Samples, network: NetworkInputs) -> dict[str, Preprocessing]:
    """Return the preprocessing of each input that the samples give."""
    names = samples.sequence(0, network).names
    return {
        name: samples.preprocessing[sample_name]
        for name, sample_name in names.items()
        if sample_name in samples.preprocessing
    }


def _find_postprocess(stages: Sequence[ScoringStage]) -> Postprocess | None:
    """Return the postprocess of the first measuring stage that has one."""
    return next((stage.postprocess for stage in stages if stage.postprocess), None)
