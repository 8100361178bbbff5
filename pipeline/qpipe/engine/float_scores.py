"""What a recipe scores networks with, applied to the float network on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpipe.compare.scoring import Outputs, Scores
from qpipe.recipe.recipe import Recipe, scoring
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import options
from qpipe.types import Measurement, Metric


@dataclass(frozen=True)
class ScoringStage:
    """A measuring stage with metrics, and what makes predictions of the network's outputs."""

    call: Call
    metrics: Sequence[Metric]
    usual: Sequence[Metric]  # those that are left out where they do not apply
    postprocess: Callable[[Outputs], Any] | None

    @property
    def target_metrics(self) -> list[Metric]:
        """The metrics that compare predictions with targets."""
        return [metric for metric in (*self.usual, *self.metrics) if metric.against == "target"]


def scoring_stages(recipe: Recipe) -> list[ScoringStage]:
    """Return the measuring stages of a recipe that have metrics, ready to score."""
    return [_scoring_stage(call) for call in recipe.measure if scoring(call)["metric"]]


def scores_by_metric(scores: Scores) -> dict[str, Measurement]:
    """Return the measurements of scores by metric."""
    return {measurement.metric: measurement for measurement in scores.measurements()}


def _scoring_stage(call: Call) -> ScoringStage:
    metrics: list[Metric] = []
    usual: list[Metric] = []
    for name, option in options(call.stage.function).items():
        if option.stage_kind != "metric":
            continue
        value: list[Call] | Call = call.options[name] or []
        calls = value if isinstance(value, list) else [value]
        destination = usual if option.default else metrics  # it has metrics by itself
        destination += [metric.stage.function(**metric.resolved()) for metric in calls]
    return ScoringStage(call, metrics, usual, _bound_postprocess(scoring(call)["postprocess"]))


def _bound_postprocess(call: Call | None) -> Callable[[Mapping[str, Any]], Any] | None:
    if call is None:
        return None
    function = call.stage.function
    resolved = call.resolved()
    return lambda outputs: function(outputs, **resolved)
