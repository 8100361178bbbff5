"""Accuracy on the device: every evaluation sample is inferred there, scored here as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import qpipe
from qpipe.compare import statistics
from qpipe.types import Array

Outputs = Mapping[str, Array]
MAX_RAW = 10_000  # more contributions than this are not kept; their resamples are


def accuracy(
    deployed: qpipe.Deployed,
    device: qpipe.Device,
    device_samples: qpipe.Stored,
    evaluation_samples: qpipe.Samples,
    float_outputs: Sequence[Outputs],
    progress: qpipe.Progress,
    *,
    postprocess: Annotated[Callable[[Outputs], Any] | None, qpipe.StageOption("postprocess")] = None,
    metric: Annotated[Sequence[qpipe.Metric], qpipe.StageOption("metric")] = (),
    always: Annotated[Sequence[qpipe.Metric], qpipe.StageOption("metric")] = ("agreement", "sqnr"),  # type: ignore[assignment]
) -> list[qpipe.Measurement]:
    """Infer all evaluation samples on the device and score them by `metric` and `always`.

    `postprocess` makes predictions of the outputs. A metric against the target is left out where samples have none.
    Intervals are over samples: Wilson's for shares, bootstrap else. Cost: one inference a sample, on the device.
    """
    metrics = list({each.name: each for each in (*always, *metric)}.values())
    contributions: dict[str, list[Any]] = {each.name: [] for each in metrics}
    count, done = len(evaluation_samples), 0
    for outputs in device.infer(deployed.stored, device_samples, count):
        target = evaluation_samples[done].target
        pairs = _pairs(outputs, float_outputs[done], target, postprocess or _unchanged)
        for each in metrics:
            if each.against != "target" or target is not None:
                contributions[each.name].append(each.contribution(*pairs[each.against]))
        done += 1
        progress(done, count, "samples")
    if done < count:
        raise qpipe.StageError(f"accuracy: {device.name} gave outputs of {done} of {count} samples; see the step's log")
    return [_measurement(each, contributions[each.name]) for each in metrics if contributions[each.name]]


def _unchanged(outputs: Outputs) -> Outputs:
    return outputs


def _pairs(
    outputs: Outputs, reference: Outputs, target: Any, predict: Callable[[Outputs], Any]
) -> dict[str, tuple[Any, Any]]:
    """What a metric gets, by what it is against."""
    predicted = predict(outputs)
    return {
        "target": (predicted, target),
        "float": (predicted, predict(reference)),
        "float_outputs": (outputs, reference),
    }


def _measurement(metric: qpipe.Metric, contributions: Sequence[Any]) -> qpipe.Measurement:
    value, n = float(metric.reduce(contributions)), len(contributions)
    interval = statistics.share_interval(contributions, value)
    numbers = all(isinstance(each, int | float) for each in contributions) and n <= MAX_RAW
    resampled = []
    if n > 1 and not (interval and numbers):
        resampled = statistics.resample(contributions, metric.reduce, resamples=metric.resamples)
        # no unit, and none of a thousand draws outside of 0 to 1: a share, or a mean of shares
        is_share = not metric.unit and all(0 <= each <= 1 for each in (value, *resampled))
        bounds = statistics.SHARE if is_share else statistics.ANYWHERE
        interval = interval or statistics.percentiles(resampled, value, n, bounds)
    low, high = interval or (None, None)
    raw = [float(each) for each in contributions] if numbers else resampled
    return qpipe.Measurement(
        metric.name, value, metric.unit, low, high, n, metric.better,
        rounds=[raw] if raw else [], raw="samples" if numbers else "resamples",
    )  # fmt: skip
