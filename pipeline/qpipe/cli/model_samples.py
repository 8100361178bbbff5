"""The samples of a model as its network is fed them, with the predictions of float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qpipe.engine import stage_results
from qpipe.engine.float_reference import float_outputs
from qpipe.engine.plan import Plan, Step
from qpipe.engine.request import ResolvedRequest
from qpipe.errors import QpipeError
from qpipe.quant.network_inputs import input_shapes
from qpipe.recipe.recipe import scoring
from qpipe.report import FedSample, SamplesOfModel
from qpipe.samples.preprocess import Shape
from qpipe.samples.store import Samples
from qpipe.types import Array, Preprocessing

Postprocess = Callable[[Mapping[str, Array]], Any]


@dataclass(frozen=True)
class FloatNetwork:
    """A float network as imported, and what decodes its outputs."""

    model: ir.Model
    shapes: Mapping[str, Shape]  # of its inputs
    postprocess: Postprocess | None


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
    shapes = input_shapes(model)
    network = FloatNetwork(model, shapes, _find_postprocess(resolved))
    fed_samples = []
    for part, samples in parts.items():
        fed_samples += _predict_some(part, samples, network, count)
    evaluation = parts["evaluation"]
    return SamplesOfModel(
        name=model_name,
        preprocessing=_preprocessing_by_input(evaluation, list(shapes)),
        samples=fed_samples,
        class_names=evaluation.classes,
        sample_rate=_sample_rate(samples_step),
        has_postprocess=network.postprocess is not None,
        part_sizes={part: len(samples) for part, samples in parts.items()},
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
    part: str, samples: Samples, network: FloatNetwork, count: int
) -> list[FedSample]:
    """Return some samples of a part, evenly spread: those of one class often lie together."""
    count = min(count, len(samples))
    selected = [samples[position * len(samples) // count] for position in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        subset = Samples.write(Path(folder), selected, samples.preprocessing, samples.classes)
        outputs = float_outputs(network.model, subset)
        return [
            _predict(part, subset, index, network, sample_outputs)
            for index, sample_outputs in enumerate(outputs)
        ]


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
        inputs=samples.feeds(index, network.shapes),
        target=sample.target,
        prediction=prediction,
        failure=failure,
    )


def _preprocessing_by_input(
    samples: Samples, input_names: Sequence[str]
) -> dict[str, Preprocessing]:
    """Return the preprocessing of each input; with a single input the names need not agree."""
    if len(input_names) == 1 and len(samples.preprocessing) == 1:
        (preprocessing,) = samples.preprocessing.values()
        return {input_names[0]: preprocessing}
    return {name: samples.preprocessing[name] for name in input_names}


def _find_postprocess(resolved: ResolvedRequest) -> Postprocess | None:
    """Return the postprocess of the first measuring stage that has one."""
    for measure in resolved.recipe.measure:
        call = scoring(measure)["postprocess"]
        if call:
            function = call.stage.function
            options = call.resolved()
            return lambda outputs: function(outputs, **options)
    return None
