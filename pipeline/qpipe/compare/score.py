"""Scores a network's outputs sample by sample, on a device or not: contributions, their reduction, its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qpipe.compare import statistics
from qpipe.errors import QpipeError, StageError
from qpipe.types import Array, Measurement, Metric, Sample

Outputs = Mapping[str, Array]
MAX_RAW = 10_000  # more contributions than this are not kept; their resamples are
LONGEST = 200  # characters of somebody else's error


class Scores:
    """Takes outputs as they arrive; holds contributions, not outputs."""

    def __init__(self, metrics: Sequence[Metric], postprocess: Callable[[Outputs], Any] | None = None) -> None:
        self.metrics = list({metric.name: metric for metric in metrics}.values())
        self.predict = postprocess or _unchanged
        self.contributions: dict[str, list[Any]] = {metric.name: [] for metric in self.metrics}

    def add(self, sample: Sample, outputs: Outputs, reference: Outputs) -> None:
        """Score one sample's outputs, against its target and the float network's; a metric against the target is left
        out where there is none. StageError, naming metric and sample, where a metric or the postprocess breaks."""
        try:
            predicted, of_float = self.predict(outputs), self.predict(reference)
        except Exception as error:
            raise _broken("postprocess", sample, error) from error
        pairs = {
            "target": (predicted, sample.target),
            "float": (predicted, of_float),
            "float_outputs": (outputs, reference),
        }
        for metric in self.metrics:
            if metric.against == "target" and sample.target is None:
                continue
            try:
                self.contributions[metric.name].append(metric.contribution(*pairs[metric.against]))
            except Exception as error:
                raise _broken(f"metric {metric.name}", sample, error) from error

    def measurements(self) -> list[Measurement]:
        """The number of each metric that any sample contributed to, with its interval over samples."""
        return [_measurement(metric, own) for metric in self.metrics if (own := self.contributions[metric.name])]


def _unchanged(outputs: Outputs) -> Outputs:
    return outputs


def _broken(what: str, sample: Sample, error: Exception) -> QpipeError:
    """Foreign code: whatever it raises is told in one line; an error of ours keeps its own words."""
    text = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, QpipeError):
        return StageError(f"{what}: sample '{sample.id}': {text}")
    return StageError(f"{what} broke at sample '{sample.id}': {type(error).__name__}: {text}".removesuffix(": "))


def _measurement(metric: Metric, contributions: Sequence[Any]) -> Measurement:
    try:
        value, n = float(metric.reduce(contributions)), len(contributions)
    except QpipeError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}"
        raise StageError(f"metric {metric.name}: its reduce broke: {reason}") from error
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
    return Measurement(
        metric.name, value, metric.unit, low, high, n, metric.better,
        rounds=[raw] if raw else [], raw="samples" if numbers else "resamples",
    )  # fmt: skip
