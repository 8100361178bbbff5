"""What an inference of each build costs in energy, by the device's own sensors or a meter beside it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import qpipe
from qpipe.stages.bounds import Core, Count, Seconds, Share, Threads, Wait
from qpipe_plugins.measure.interleaved_rounds import Interleaved
from qpipe_plugins.measure.round_journal import Journal, interval
from qpipe_plugins.measure.round_options import round_options
from qpipe_plugins.measure.timing_metrics import doubt, kept

METRICS = ("energy_mj", "energy_net_mj", "power_w")
MOST_VALUES = 100_000  # a round has no more inferences


def energy(
    deployments: qpipe.Deployments,
    device: qpipe.Device,
    device_samples: Mapping[str, qpipe.Stored],
    workdir: Path,
    progress: qpipe.Progress,
    *,
    source: Literal["auto", "hwmon", "rapl"] = "auto",
    rails: Sequence[str] = (),
    command: str | None = None,
    command_on: Literal["device", "host"] = "device",
    unit: Literal["W", "J"] = "W",
    rounds: Count = 5,
    round_s: Seconds = 6,
    warmup_s: Wait = 0.5,
    idle_s: Seconds = 3,
    period_s: Seconds = 0.02,
    updates: Count = 20,
    threads: Threads | None = None,
    batch: Count = 1,
    affinity: Sequence[Core] | None = None,
    governor: str | None = None,
    cool_to_c: float | None = None,
    max_load: Share = 0.25,
) -> list[qpipe.Measurement]:
    """Energy of an inference in mJ: all that the device takes meanwhile, and what of it is beyond being idle.

    From power monitors (INA219, INA226, INA3221: hwmon) or Intel's counters (rapl), whichever the device has (auto):
    the named `rails`, else the one that feeds the others, else all. Or from a meter of your own: `command` is run by
    the device's shell, or the host's (`command_on`), and prints watts (or, with `unit` J, joules so far), one number a
    line, until it is ended. All builds work in turn, as for latency: each of `rounds` fresh processes for `round_s`
    seconds, after `idle_s` of rest. A round in which the sensor had fewer than `updates` new values is refused. A
    device measured so runs the sensor's readings, too. `threads`, `batch`, `affinity`, `governor`, `cool_to_c` and
    `max_load` are as for latency. Cost: builds x rounds x (idle + round).
    """
    if command_on == "host" and not command:
        raise qpipe.StageError(
            "energy: a meter at the host is a command; give one, or leave command_on out"
        )
    own = {
        "source": source,
        "rails": list(rails),
        "command": command,
        "command_on": command_on,
        "unit": unit,
        "idle_s": idle_s,
        "period_s": period_s,
        "updates": updates,
    }
    options = {
        **round_options(threads, batch, affinity, governor, cool_to_c, max_load),
        "energy": own,
    }
    asked = {"warmup_s": warmup_s, "values": MOST_VALUES, "budget_s": round_s, "options": options}
    journal = Journal(workdir / "rounds.jsonl", asked)
    metering = Interleaved("energy", deployments.present, device, device_samples, journal, asked)
    for _ in metering.take(rounds, progress):
        if not all(taken[-1].energy for taken in metering.taken.values() if taken):
            raise qpipe.StageError(
                f"energy: {device.name} measures no energy; take energy out of measure"
            )
    return metering.complete(
        [
            _measurement(metric, metering.taken[each.name], each.name)
            for each in metering.running
            for metric in METRICS
        ]
    )


def _measurement(metric: str, taken: Sequence[qpipe.Round], deployed: str) -> qpipe.Measurement:
    """A number of each round, of those that nothing disturbed where there are any; their median."""
    believed = kept(taken)
    values = [_of(metric, each) for each in believed]
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    first = believed[0].energy
    detail = {
        "source": first["source"],
        "rails": first["rails"],
        "period_s": first["period_s"],
        "updates": [each.energy["updates"] for each in taken],
        "seconds": [each.energy["seconds"] for each in taken],
        "inferences": [each.energy["inferences"] for each in taken],
        "idle_w": [each.energy["idle_w"] for each in taken],
        **doubt([each.invalid for each in taken]),
    }
    conditions = [{"invalid": each.invalid, "environment": each.environment} for each in taken]
    raw = [[_of(metric, each)] for each in taken]
    return qpipe.Measurement(
        metric,
        median,
        "W" if metric == "power_w" else "mJ",
        low,
        high,
        len(values),
        deployed=deployed,
        rounds=raw,
        detail=detail,
        conditions=conditions,
    )


def _of(metric: str, taken: qpipe.Round) -> float:
    """The metric of one round."""
    found = taken.energy
    if metric == "power_w":
        return float(found["joules"] / found["seconds"])
    idle = found["idle_w"] * found["seconds"] if metric == "energy_net_mj" else 0.0
    return float(1000 * (found["joules"] - idle) / found["inferences"])
