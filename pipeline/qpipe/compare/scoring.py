"""Scores of a network, sample by sample: contributions, their reduction, and its interval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qpipe.compare import intervals
from qpipe.compare.intervals import Interval
from qpipe.errors import QpipeError, StageError
from qpipe.types import SHARE, Array, Measurement, Metric, Sample

Outputs = Mapping[str, Array]

MOST_CONTRIBUTIONS = 10_000  # more are not stored; their resamples are
LONGEST_TEXT = 200  # characters of a foreign error or value

log = logging.getLogger(__name__)


class Scores:
    """The contributions of samples to metrics.

    Outputs are scored as they arrive and not kept. A metric that is only `usual` is left out, with
    a warning in the log, where it says that these outputs are not for it. Outputs of sequences have
    the chunks along axis 0.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        postprocess: Callable[[Outputs], Any] | None = None,
        usual: Sequence[Metric] = (),
        *,
        are_sequences: bool = False,
    ) -> None:
        metric_by_name = {metric.name: metric for metric in (*usual, *metrics)}
        requested_names = {metric.name for metric in metrics}
        self.metrics = list(metric_by_name.values())
        self.optional_names = metric_by_name.keys() - requested_names
        self.postprocess = postprocess
        self.are_sequences = are_sequences
        self.contributions: dict[str, list[Any]] = {name: [] for name in metric_by_name}
        # metric -> output that it cannot compare -> why
        self.not_compared: dict[str, dict[str, str]] = {name: {} for name in metric_by_name}

    def add(self, sample: Sample, outputs: Outputs, reference: Outputs) -> None:
        """Score the outputs for one sample, against its target and those of the float network.

        A metric against the target is left out where there is none. Raise StageError, naming metric
        and sample, where a metric or the postprocess breaks.
        """
        try:
            prediction = self._predict(outputs)
            float_prediction = self._predict(reference)
        except Exception as error:
            raise _broken("postprocess", sample, error, outputs) from error
        arguments = {
            "target": (prediction, sample.target),
            "float": (prediction, float_prediction),
            "float_outputs": (outputs, reference),
        }
        for metric in list(self.metrics):
            if metric.against == "target" and sample.target is None:
                continue
            self._add_contribution(metric, sample, *arguments[metric.against])

    def _predict(self, outputs: Outputs) -> Any:
        return self.postprocess(outputs) if self.postprocess else outputs

    def _add_contribution(
        self, metric: Metric, sample: Sample, prediction: Any, reference: Any
    ) -> None:
        try:
            contributions = []
            for part in self._parts(metric, prediction, reference):
                contributions.append(metric.contribution(*part))
                if metric.not_compared is not None:
                    self._note_not_compared(metric, sample, metric.not_compared(*part))
            is_one = len(contributions) == 1
            contribution = contributions[0] if is_one else float(np.mean(contributions))
        except Exception as error:
            if not (isinstance(error, QpipeError) and self._leave_out(metric, error)):
                raise _broken(f"metric {metric.name}", sample, error, prediction) from error
        else:
            self.contributions[metric.name].append(contribution)

    def _parts(self, metric: Metric, prediction: Any, reference: Any) -> list[tuple[Any, Any]]:
        """Return a prediction with its reference, or those of each chunk of a sequence."""
        if not (self.are_sequences and metric.by_chunk and self.postprocess is None):
            return [(prediction, reference)]
        count = len(next(iter(reference.values())))
        predictions = [_chunk_of(prediction, index) for index in range(count)]
        references = [_chunk_of(reference, index) for index in range(count)]
        return list(zip(predictions, references, strict=True))

    def _note_not_compared(
        self, metric: Metric, sample: Sample, reasons: Mapping[str, str]
    ) -> None:
        noted = self.not_compared[metric.name]
        for output, reason in reasons.items():
            if output not in noted:
                noted[output] = f"{reason} (sample '{sample.id}')"
                log.warning("%s leaves out output '%s': %s", metric.name, output, noted[output])

    def _leave_out(self, metric: Metric, error: QpipeError) -> bool:
        """Leave out a metric that is only usual; return whether it is."""
        if metric.name not in self.optional_names:
            return False
        log.warning("%s is left out: %s", metric.name, error)
        self.metrics.remove(metric)
        return True

    def measurements(self) -> list[Measurement]:
        """Return the number of each metric that has contributions, with its interval.

        Outputs that a metric could not compare are in the detail: `not_compared`.
        """
        measurements = []
        for metric in list(self.metrics):
            contributions = self.contributions[metric.name]
            if not contributions:
                continue
            try:
                measurement = _measurement(metric, contributions)
            except StageError as error:
                if not self._leave_out(metric, error):
                    raise
                continue
            detail = dict(measurement.detail)
            if self.not_compared[metric.name]:
                detail["not_compared"] = self.not_compared[metric.name]
            measurements.append(replace(measurement, detail=detail))
        return measurements


def _chunk_of(outputs: Outputs, index: int) -> Outputs:
    return {name: array[index] for name, array in outputs.items()}


# ---- errors of foreign code


def _broken(function: str, sample: Sample, error: Exception, argument: Any) -> StageError:
    """Return any error of a plugin as one line; a QpipeError keeps its text."""
    text = _one_line(error)
    if isinstance(error, QpipeError):
        return StageError(f"{text} (sample '{sample.id}')")
    reason = f"{type(error).__name__}: {text}".removesuffix(": ")
    message = f"{function} broke at sample '{sample.id}': {reason}"
    return StageError(f"{message}; it got {_describe(argument)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_TEXT]


def _describe(value: Any) -> str:
    """Return the type and shape of a metric's or a postprocess's argument."""
    if isinstance(value, Mapping):
        items = ", ".join(f"{name} {_describe(item)}" for name, item in value.items())
        return items[:LONGEST_TEXT]
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {list(value.shape)}"
    return type(value).__name__


# ---- numbers


def _measurement(metric: Metric, contributions: Sequence[Any]) -> Measurement:
    value = _reduce(metric, contributions)
    n = len(contributions)
    is_numeric = all(isinstance(contribution, int | float) for contribution in contributions)
    keeps_contributions = is_numeric and n <= MOST_CONTRIBUTIONS
    interval = intervals.share_interval(contributions, value)
    resampled: list[float] = []
    if n > 1 and not (interval and keeps_contributions):
        resampled = intervals.resample(contributions, metric.reduce, resamples=metric.resamples)
    low, high = interval or _bootstrap_interval(metric, value, resampled, n)
    if keeps_contributions:
        raw_values = [float(contribution) for contribution in contributions]
    else:
        raw_values = resampled
    return Measurement(
        metric=metric.name,
        value=value,
        unit=metric.unit,
        low=low,
        high=high,
        n=n,
        better=metric.better,
        rounds=[raw_values] if raw_values else [],
        raw="samples" if keeps_contributions else "resamples",
        detail={} if metric.against == "target" else {"against": metric.against},
    )


def _bootstrap_interval(
    metric: Metric, value: float, resampled: Sequence[float], n: int
) -> Interval | tuple[None, None]:
    """Return the interval of a value by its resamples; there are none of a single sample."""
    if not resampled:
        return None, None
    bounds = _bounds(metric, [value, *resampled])
    return intervals.percentiles(resampled, value, n, bounds)


def _reduce(metric: Metric, contributions: Sequence[Any]) -> float:
    try:
        return float(metric.reduce(contributions))
    except QpipeError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise StageError(f"metric {metric.name}: its reduce broke: {reason}") from error


def _bounds(metric: Metric, values: Sequence[float]) -> Interval:
    """Return where values of a metric can lie.

    A share by its unit; otherwise by many resamples: what is never negative is an amount.
    """
    if metric.unit == SHARE:
        return intervals.SHARE
    return intervals.AMOUNT if min(values) >= 0 else intervals.ANYWHERE
