"""Latency of all that was deployed on a device, in interleaved rounds, so that drift and heat fall on all alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import qpipe
from qpipe.amounts import Count, Seconds, Wait
from qpipe.compare.statistics import paired_ratio
from qpipe_plugins.measure.rounds import Journal, interval

ENOUGH_FOR_P99 = 299  # fewer values bound no 99th percentile: 0.99^299 < 0.05
Rounds = Sequence[qpipe.Round]
METRICS = (
    "latency_ms", "latency_p90_ms", "latency_p99_ms", "latency_min_ms", "load_ms", "first_ms", "latency_ratio"
)  # fmt: skip


def latency(
    deployments: qpipe.Deployments,
    device: qpipe.Device,
    device_samples: Mapping[str, qpipe.Stored],
    workdir: Path,
    progress: qpipe.Progress,
    *,
    rounds: Count = 10,
    values: Count = 30,
    warmup_s: Wait = 0.3,
    round_s: Seconds = 5,
) -> list[qpipe.Measurement]:
    """Time every deployed build in turn, each round of each in a fresh process; medians, tails, and the ratio to float.

    `values` inferences a round, fewer where they would exceed `round_s` seconds. Intervals are over rounds. A build
    that fails drops out, and the others go on. Cost: builds x rounds x (start + warmup + values).
    """
    failures: dict[str, str] = {}
    taken: list[dict[str, qpipe.Round]] = []
    journal = Journal(workdir / "rounds.jsonl", {"values": values, "warmup_s": warmup_s, "round_s": round_s})

    def once(each: qpipe.Deployed) -> qpipe.Round:
        return device.round(each.stored, device_samples[each.name], warmup_s=warmup_s, values=values, budget_s=round_s)

    for number, order in enumerate(turns(deployments.present, rounds)):
        running = [each for each in order if each.name not in failures]
        kept = journal.read(number, {each.name: each.stored.digest for each in running})
        taken.append(kept or {})
        for done, each in enumerate(running if kept is None else []):
            result = _timed(once, each, device)
            if isinstance(result, str):
                failures[each.name] = result
            else:
                taken[-1][each.name] = result
                journal.append(each.name, each.stored.digest, number, result)
            progress(number * len(order) + done + 1, rounds * len(order), "rounds")
        progress((number + 1) * len(order), rounds * len(order), "rounds")  # also of those read back or dropped
    survivors = [each for each in deployments.present if each.name not in failures]
    if not survivors:
        reasons = "; ".join(failures.values()) or "none was deployed"
        raise qpipe.StageError(f"latency: no build ran: {reasons}")
    measured = {each.name: [each_round[each.name] for each_round in taken] for each in survivors}
    found = [measurement for each in survivors for measurement in _measurements(each, measured, survivors)]
    if failures:
        all_of = len(deployments.present)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise qpipe.IncompleteError(f"latency: {len(failures)} of {all_of} builds did not run: {reasons}", found)
    return found


def turns(builds: Sequence[qpipe.Deployed], rounds: int) -> list[Sequence[qpipe.Deployed]]:
    """Whose turn it is in each round: all, from a random start, every other round backwards (ABBA)."""
    start = int(np.random.default_rng().integers(max(1, len(builds))))
    order = [*builds[start:], *builds[:start]]
    return [order if number % 2 == 0 else order[::-1] for number in range(rounds)]


def _timed(
    once: Callable[[qpipe.Deployed], qpipe.Round], deployed: qpipe.Deployed, device: qpipe.Device
) -> qpipe.Round | str:
    """A round of a build, or why there is none. The first failure may have been the line's: it gets a second try."""
    reason = ""
    for _ in range(2):
        try:
            return once(deployed)
        except qpipe.DeviceError as error:
            reason = str(error)
            device.capabilities()  # raises where it is the device that failed, not the build
    return reason


def _measurements(
    deployed: qpipe.Deployed, measured: Mapping[str, Rounds], all_deployed: Sequence[qpipe.Deployed]
) -> list[qpipe.Measurement]:
    """All numbers of one build."""
    rounds = measured[deployed.name]
    by_round = [list(each.values_ms) for each in rounds]
    pooled = sorted(value for values in by_round for value in values)
    medians = [statistics.median(values) for values in by_round]
    found = [
        _one("latency_ms", statistics.median(pooled), medians, by_round),
        _one("latency_p90_ms", _percentile(pooled, 0.90), [_percentile(sorted(each), 0.90) for each in by_round]),
        _one("latency_min_ms", pooled[0]),
        _one("load_ms", *_median_of([each.load_ms for each in rounds])),
        _one("first_ms", *_median_of([each.first_ms for each in rounds])),
    ]
    if len(pooled) >= ENOUGH_FOR_P99:
        found.append(_one("latency_p99_ms", _percentile(pooled, 0.99)))
    reference = float_of(deployed, all_deployed)
    if reference and not deployed.is_float:
        floats = [statistics.median(each.values_ms) for each in measured[reference.name]]
        ratio, over_rounds = paired_ratio(medians, floats)
        low, high = over_rounds or (None, None)
        found.append(qpipe.Measurement("latency_ratio", ratio, "", low, high, len(medians)))
    return [qpipe.Measurement(**{**vars(each), "deployed": deployed.name}) for each in found]


def float_of(deployed: qpipe.Deployed, among: Sequence[qpipe.Deployed]) -> qpipe.Deployed | None:
    """The float reference of a build's model, made by the same compile stage where there is one."""
    model, _, rest = deployed.name.partition("/")
    floats = [each for each in among if each.is_float and each.name.partition("/")[0] == model]
    same = [each for each in floats if each.name.rpartition("/")[2] == rest.rpartition("/")[2]]
    return next(iter(same or floats), None)


def _one(
    metric: str, value: float, over_rounds: Sequence[float] = (), raw: Sequence[Sequence[float]] = ()
) -> qpipe.Measurement:
    """One number in ms, with its interval where each round gave that number, too."""
    low, high = interval(value, over_rounds) or (None, None)
    return qpipe.Measurement(metric, value, "ms", low, high, max(1, len(over_rounds)), rounds=raw)


def _median_of(values: Sequence[float]) -> tuple[float, Sequence[float]]:
    return statistics.median(values), values


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1]
