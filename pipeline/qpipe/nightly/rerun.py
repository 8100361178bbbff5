"""The confirming rerun: the builds of before and of now in turn, in one session on the board."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qpipe.compare.intervals import paired_ratio
from qpipe.nightly.change_points import SMALLEST_CHANGE, Change, is_beyond_doubt
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import needs
from qpipe.types import Build, Deployed, Deployments, Device, Measurement, Progress

# of the interval of new / old: of many candidates few may be confirmed by chance
LEVEL = 0.999


@dataclass(frozen=True)
class Pair:
    """The builds of a series to compare; one folder where the build is the same."""

    subject: str  # the row of the series
    metric: str
    new: Path
    old: Path | None  # None where it is the same build


@dataclass(frozen=True)
class Rerun:
    """What a rerun says of a pair."""

    new: float
    old: float | None = None
    ratio: float | None = None  # of new to old, with its interval
    low: float | None = None
    high: float | None = None


def rerun(
    device: Device, call: Call, samples: Path, pairs: Sequence[Pair], progress: Progress
) -> dict[Pair, Rerun]:
    """Measure pairs of builds by the stage that measured their series, and return what it says.

    The stage interleaves all that it is given. `samples` is a folder of evaluation samples; the
    device is this process's own for that time.
    """
    folders: dict[str, Path] = {}
    for pair in pairs:
        folders[f"new {pair.subject}"] = pair.new
        if pair.old is not None:
            folders[f"old {pair.subject}"] = pair.old
    deployed = [
        Deployed(name, Build.read(folder), device.store(folder, progress))
        for name, folder in folders.items()
    ]
    stored_samples = device.store(samples, progress)
    with tempfile.TemporaryDirectory() as workdir:
        arguments = {
            "deployments": Deployments(deployed),
            "device": device,
            "device_samples": {build.name: stored_samples for build in deployed},
            "workdir": Path(workdir),
            "progress": progress,
        }
        function = call.stage.function
        measured: Sequence[Measurement] = function(
            *(arguments[name] for name in needs(function)), **_all_rounds(call)
        )
    by_build = {(number.deployed, number.metric): number for number in measured}
    return {pair: _result(pair, by_build) for pair in pairs}


def _all_rounds(call: Call) -> dict[str, Any]:
    """Return the options of a measuring stage; no round is saved where the result is precise."""
    options = call.resolved()
    return {**options, "precision": 0} if "precision" in options else options


def _result(pair: Pair, measured: Mapping[tuple[str, str], Measurement]) -> Rerun:
    new = measured[f"new {pair.subject}", pair.metric]
    if pair.old is None:
        return Rerun(new.value)
    old = measured[f"old {pair.subject}", pair.metric]
    new_rounds, old_rounds = _paired_rounds(new, old)
    if len(new_rounds) < 2:
        return Rerun(new.value, old.value)
    ratio, interval = paired_ratio(new_rounds, old_rounds, LEVEL)
    low, high = interval or (None, None)
    return Rerun(new.value, old.value, ratio, low, high)


def _paired_rounds(new: Measurement, old: Measurement) -> tuple[list[float], list[float]]:
    """Return the medians of the rounds that count for both."""
    pairs = []
    for number, (new_values, old_values) in enumerate(zip(new.rounds, old.rounds, strict=False)):
        if _counts(new, number) and _counts(old, number):
            pairs.append((median(new_values), median(old_values)))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _counts(measurement: Measurement, number: int) -> bool:
    conditions = measurement.conditions
    return number >= len(conditions) or not conditions[number].get("invalid")


def is_confirmed(change: Change, result: Rerun) -> bool:
    """Return whether a rerun confirms a change of the level of a series.

    Of two builds it does where the new one differs from the old one in the same direction, beyond
    doubt and by more than SMALLEST_CHANGE. Of a build that is the same, the rerun is one more
    number of tonight: it takes a change that is large for the noise, or that lasts.
    """
    if result.low is None or result.high is None or result.ratio is None:
        return is_beyond_doubt(change, result.new)
    if change.after > change.before:
        return result.low > 1 and result.ratio > 1 + SMALLEST_CHANGE
    return result.high < 1 and result.ratio < 1 - SMALLEST_CHANGE
