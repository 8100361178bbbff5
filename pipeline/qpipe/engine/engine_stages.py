"""What the engine does itself on the host, as stages: the float network's outputs, and the check of their score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import qpipe
from qpipe.compare.scoring import Outputs, Scores
from qpipe.engine.float_reference import float_outputs
from qpipe.errors import StageError
from qpipe.stages.options import StageOption
from qpipe.stages.registry import Stage
from qpipe.types import Array, Measurement, Metric, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

    from qpipe.samples.store import Samples


def reference(
    model: ir.Model, evaluation_samples: Samples, progress: Progress
) -> Mapping[str, Array]:
    """What the float network gives on the evaluation samples, on the host: SQNR and agreement are against it."""
    return float_outputs(model, evaluation_samples, progress)


def expect(
    float_outputs: Sequence[Outputs],
    evaluation_samples: Samples,
    *,
    expected: Mapping[str, Mapping[str, float]],
    postprocess: Annotated[Callable[[Outputs], Any] | None, StageOption("postprocess")] = None,
    metric: Annotated[Sequence[Metric], StageOption("metric")] = (),
    always: Annotated[Sequence[Metric], StageOption("metric")] = (),
) -> list[Measurement]:
    """Score the float network; StageError where a score is farther from its expected value than the tolerance."""
    wanted = [each for each in (*always, *metric) if each.name in expected]
    scores = Scores(wanted, postprocess)
    for sample, outputs in zip(evaluation_samples, float_outputs, strict=True):
        scores.add(sample, outputs, outputs)
    found = {measurement.metric: measurement for measurement in scores.measurements()}
    for name, bounds in expected.items():
        _check(name, found.get(name), bounds)
    return list(found.values())


def _check(name: str, found: Measurement | None, bounds: Mapping[str, float]) -> None:
    value = bounds["value"]
    tolerance = bounds["tolerance"]
    wanted = f"expect: {name} of the float network should be {value:g} within {tolerance:g}"
    if found is None:
        raise StageError(
            f"{wanted}, but no sample has a target; give labels", failure="configuration"
        )
    if not abs(found.value - value) <= tolerance:
        fix = "see what it is fed with: qpipe samples RECIPE; check preprocessing, labels and postprocess"
        what = f"it is {found.value:.4g} on {found.n} samples"
        raise StageError(f"{wanted}, {what}; {fix}", failure="wrong answer")


def _stage(kind: str, function: Callable[..., Any]) -> Stage:
    return Stage(kind, kind, function, "qpipe-edge", qpipe.__version__)


REFERENCE = _stage("reference", reference)
EXPECT = _stage("expect", expect)
STAGES: Mapping[str, Stage] = {stage.kind: stage for stage in (REFERENCE, EXPECT)}
