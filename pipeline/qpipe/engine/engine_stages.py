"""Stages of the engine itself on the host: checks of the float network, its outputs, chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import qpipe
from qpipe.compare.scoring import Outputs, Scores
from qpipe.engine.exactness import check_exact
from qpipe.engine.float_reference import write_float_outputs
from qpipe.engine.sequences import write_chunks
from qpipe.engine.stage_results import FloatOutputs
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.stages.options import StageOption
from qpipe.stages.registry import OWN_DISTRIBUTION, Stage
from qpipe.types import Measurement, Metric, Progress, Resources

if TYPE_CHECKING:
    import onnx_ir as ir

    from qpipe.recipe.recipe import ExpectedScore


def reference(
    model: ir.Model, evaluation_samples: Samples, workdir: Path, progress: Progress
) -> FloatOutputs:
    """Write the float network's outputs on the evaluation samples, computed on the host."""
    return write_float_outputs(model, evaluation_samples, workdir, progress)


def exactness(
    model: ir.Model,
    given: Path | None,
    calibration_samples: Samples,
    evaluation_samples: Samples,
    workdir: Path,
    progress: Progress,
    *,
    count: int = 0,
) -> FloatOutputs | None:
    """Raise StageError where an imported network does not compute what the given file does.

    Write its outputs on `count` evaluation samples, which postprocess and metrics are tried on.
    """
    if given is not None:
        check_exact(model, given, [calibration_samples, evaluation_samples])
    if count == 0:
        return None
    return write_float_outputs(model, evaluation_samples, workdir, progress, count=count)


def chunks(
    model: ir.Model, calibration_samples: Samples, workdir: Path, progress: Progress
) -> Samples:
    """Write the chunks of calibration's sequences, with the states of the float network."""
    return write_chunks(model, calibration_samples, workdir, progress)


def expect(
    float_outputs: Sequence[Outputs],
    evaluation_samples: Samples,
    *,
    expected: Mapping[str, ExpectedScore],
    postprocess: Annotated[Callable[[Outputs], Any] | None, StageOption("postprocess")] = None,
    metric: Annotated[Sequence[Metric], StageOption("metric")] = (),
) -> list[Measurement]:
    """Score the float network; raise StageError where a score is not within its tolerance."""
    metrics = [candidate for candidate in metric if candidate.name in expected]
    scores = Scores(metrics, postprocess)
    for sample, outputs in zip(evaluation_samples, float_outputs, strict=True):
        scores.add(sample, outputs, outputs)
    measurements = {measurement.metric: measurement for measurement in scores.measurements()}
    for name, score in expected.items():
        _check_score(name, measurements.get(name), score)
    return list(measurements.values())


def _check_score(name: str, measurement: Measurement | None, expected: ExpectedScore) -> None:
    value = expected["value"]
    tolerance = expected["tolerance"]
    expectation = f"expect: {name} of the float network should be {value:g} within {tolerance:g}"
    if measurement is None:
        raise StageError(
            f"{expectation}, but no sample has a target; give labels", failure="configuration"
        )
    if not abs(measurement.value - value) <= tolerance:  # a NaN is never within it
        raise StageError(
            f"{expectation}, it is {measurement.value:.4g} on {measurement.n} samples; "
            "see what it is fed with: qpipe samples RECIPE; "
            "check preprocessing, labels and postprocess",
            failure="wrong answer",
        )


def _engine_stage(kind: str, function: Callable[..., Any], *, threads: int = 1) -> Stage:
    resources = Resources(threads)
    return Stage(kind, kind, function, OWN_DISTRIBUTION, qpipe.__version__, resources=resources)


REFERENCE = _engine_stage("reference", reference, threads=0)
EXPECT = _engine_stage("expect", expect)
CHUNKS = _engine_stage("chunks", chunks, threads=0)
EXACTNESS = _engine_stage("exactness", exactness)
STAGES: Mapping[str, Stage] = {
    stage.kind: stage for stage in (REFERENCE, EXPECT, CHUNKS, EXACTNESS)
}
