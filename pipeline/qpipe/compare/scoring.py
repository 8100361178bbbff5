"""Scores a network's outputs sample by sample, on a device or not: contributions, their reduction, its interval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qpipe.compare import intervals
from qpipe.errors import QpipeError, StageError
from qpipe.types import SHARE, Array, Measurement, Metric, Sample

Outputs = Mapping[str, Array]
MAX_RAW = 10_000  # more contributions than this are not kept; their resamples are
LONGEST = 200  # characters of somebody else's error


log = logging.getLogger(__name__)


class Scores:
    """Takes outputs as they arrive; holds contributions, not outputs.

    Of the metrics those that are `usual` are left out, with a word in the log, where they say that these outputs are
    nothing for them.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        postprocess: Callable[[Outputs], Any] | None = None,
        usual: Sequence[Metric] = (),
    ) -> None:
        self.metrics = list({metric.name: metric for metric in (*usual, *metrics)}.values())
        self.usual = {metric.name for metric in usual} - {metric.name for metric in metrics}
        self.predict = postprocess or _unchanged
        self.contributions: dict[str, list[Any]] = {metric.name: [] for metric in self.metrics}

    def add(self, sample: Sample, outputs: Outputs, reference: Outputs) -> None:
        """Score one sample's outputs, against its target and the float network's; a metric against the target is left
        out where there is none. StageError, naming metric and sample, where a metric or the postprocess breaks."""
        try:
            predicted = self.predict(outputs)
            of_float = self.predict(reference)
        except Exception as error:
            raise _broken("postprocess", sample, error, outputs) from error
        pairs = {
            "target": (predicted, sample.target),
            "float": (predicted, of_float),
            "float_outputs": (outputs, reference),
        }
        for metric in list(self.metrics):
            if metric.against == "target" and sample.target is None:
                continue
            try:
                self.contributions[metric.name].append(metric.contribution(*pairs[metric.against]))
            except Exception as error:
                if not (isinstance(error, QpipeError) and metric.name in self.usual):
                    raise _broken(
                        f"metric {metric.name}", sample, error, pairs[metric.against][0]
                    ) from error
                log.warning("%s is left out: %s", metric.name, error)
                self.metrics.remove(metric)

    def measurements(self) -> list[Measurement]:
        """The number of each metric that any sample contributed to, with its interval over samples."""
        return [
            _measurement(metric, own)
            for metric in self.metrics
            if (own := self.contributions[metric.name])
        ]


def _unchanged(outputs: Outputs) -> Outputs:
    return outputs


def _broken(what: str, sample: Sample, error: Exception, got: Any) -> QpipeError:
    """Foreign code: whatever it raises is told in one line; an error of ours keeps its own words."""
    text = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, QpipeError):
        return StageError(f"{text} (sample '{sample.id}')")
    reason = f"{type(error).__name__}: {text}".removesuffix(": ")
    return StageError(f"{what} broke at sample '{sample.id}': {reason}; it got {_shown(got)}")


def _shown(got: Any) -> str:
    """What a metric or a postprocess was given, in a few words."""
    if isinstance(got, Mapping):
        return ", ".join(f"{name} {_shown(value)}" for name, value in got.items())[:LONGEST]
    return (
        f"{got.dtype.name} {list(got.shape)}" if isinstance(got, np.ndarray) else type(got).__name__
    )


def _bounds(metric: Metric, draws: Sequence[float]) -> intervals.Interval:
    """Where the metric's values can lie: a share by its unit, else by a thousand draws: what was never negative is an
    amount."""
    if metric.unit == SHARE:
        return intervals.SHARE
    return intervals.AMOUNT if min(draws) >= 0 else intervals.ANYWHERE


def _measurement(metric: Metric, contributions: Sequence[Any]) -> Measurement:
    try:
        value = float(metric.reduce(contributions))
        n = len(contributions)
    except QpipeError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}"
        raise StageError(f"metric {metric.name}: its reduce broke: {reason}") from error
    interval = intervals.share_interval(contributions, value)
    numbers = all(isinstance(each, int | float) for each in contributions) and n <= MAX_RAW
    resampled = []
    if n > 1 and not (interval and numbers):
        resampled = intervals.resample(contributions, metric.reduce, resamples=metric.resamples)
        bounds = _bounds(metric, (value, *resampled))
        interval = interval or intervals.percentiles(resampled, value, n, bounds)
    low, high = interval or (None, None)
    raw = [float(each) for each in contributions] if numbers else resampled
    return Measurement(
        metric.name,
        value,
        metric.unit,
        low,
        high,
        n,
        metric.better,
        rounds=[raw] if raw else [],
        raw="samples" if numbers else "resamples",
        detail={} if metric.against == "target" else {"against": metric.against},
    )
