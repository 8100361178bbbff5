"""Whether postprocess and metrics of a recipe fit the outputs of its float networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qpipe.compare.scoring import Outputs, Scores
from qpipe.engine.float_scores import ScoringStage
from qpipe.errors import StageError
from qpipe.quant.network_inputs import states_of
from qpipe.samples.selection import take_evenly
from qpipe.types import SHARE, Measurement, Metric, Sample

if TYPE_CHECKING:
    import onnx_ir as ir

    from qpipe.samples.store import Samples

SAMPLE_COUNT = 4
ROUNDING = 1e-9
ScoredOutputs = tuple[Sample, Outputs]


def check_scoring(
    stage: ScoringStage, model: ir.Model, samples: Samples, outputs: Sequence[Outputs]
) -> None:
    """Raise StageError where the float network cannot be scored, or does not agree with itself.

    `outputs` are its outputs on SAMPLE_COUNT samples, evenly spread. A metric that is a share of
    answers equal to those of float is 1 for float itself, unless the postprocess makes no answers
    of the outputs. The least and the largest of all labels must fit the metric, too.
    """
    indices = take_evenly(range(len(samples)), SAMPLE_COUNT)
    scored_samples = [samples[index] for index in indices]
    scored_outputs = list(zip(scored_samples, outputs, strict=True))
    are_sequences = bool(states_of(model))
    targets = [entry["target"] for entry in samples.entries if entry["target"] is not None]
    for metric in stage.metrics:
        if metric.against == "target" and not targets:
            reason = f"metric {metric.name}: the samples have no targets"
            raise StageError(f"{reason}; give the samples stage labels, or leave the metric out")
        _score(stage, metric, scored_outputs, are_sequences=are_sequences)
        if metric.against == "target":
            extremes = _with_extreme_labels(samples, scored_outputs[0][1])
            _score(stage, metric, extremes, are_sequences=are_sequences)
    for metric in (*stage.usual, *stage.metrics):
        if metric.against != "float" or metric.unit != SHARE or metric.better != "max":
            continue
        try:
            agreement = _score(stage, metric, scored_outputs, are_sequences=are_sequences)
        except StageError:
            continue  # it is left out
        if agreement is not None and not agreement.value >= 1 - ROUNDING:
            raise StageError(_disagreement(stage, agreement), failure="wrong answer")


def _with_extreme_labels(samples: Samples, outputs: Outputs) -> list[ScoredOutputs]:
    """Return the samples of the least and the largest label; each comes with the same outputs."""
    labels: dict[int, int] = {}  # index of a sample that has it
    for index, entry in enumerate(samples.entries):
        if isinstance(entry["target"], int):
            labels.setdefault(entry["target"], index)
    extremes = {min(labels), max(labels)} if labels else set()
    return [(samples[labels[label]], outputs) for label in sorted(extremes)]


def _score(
    stage: ScoringStage,
    metric: Metric,
    scored_outputs: list[ScoredOutputs],
    *,
    are_sequences: bool,
) -> Measurement | None:
    """Return the score of float held against itself; None where the samples have no targets."""
    scores = Scores([metric], stage.postprocess, are_sequences=are_sequences)
    for sample, outputs in scored_outputs:
        scores.add(sample, outputs, outputs)
    measurements = scores.measurements()
    return measurements[0] if measurements else None


def _disagreement(stage: ScoringStage, agreement: Measurement) -> str:
    reason = (
        f"the {agreement.metric} of float with itself is {agreement.value:.1%} on {agreement.n} "
        "samples, not 100 %"
    )
    if stage.postprocess is None:
        return f"{reason}; check that the network's outputs are finite numbers"
    fix = "check that its options are those of the network, and that it is deterministic"
    return f"{reason}: the postprocess does not fit the network's outputs; {fix}"
