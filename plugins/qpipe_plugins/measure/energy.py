"""What an inference costs in energy, by the device's own sensors or a meter beside it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import qpipe
from qpipe.amounts import Count, Seconds, Threads, Wait
from qpipe_plugins.measure.conditions import round_options
from qpipe_plugins.measure.rounds import interval

METRICS = ("energy_mj", "energy_net_mj", "power_w")
MOST_VALUES = 100_000  # a round has no more inferences
MOST_LOAD = 0.25


def energy(
    deployed: qpipe.Deployed,
    device: qpipe.Device,
    device_samples: qpipe.Stored,
    progress: qpipe.Progress,
    *,
    source: Literal["auto", "hwmon", "rapl"] = "auto",
    rails: Sequence[str] = (),
    command: str | None = None,
    unit: Literal["W", "J"] = "W",
    rounds: Count = 5,
    round_s: Seconds = 6,
    warmup_s: Wait = 0.5,
    idle_s: Seconds = 3,
    period_s: Seconds = 0.02,
    updates: Count = 20,
    batch: Count = 1,
    threads: Threads | None = None,
    governor: str | None = None,
) -> list[qpipe.Measurement]:
    """Energy of an inference in mJ: all that the device takes meanwhile, and what of it is beyond being idle.

    From power monitors (INA219, INA226, INA3221: hwmon) or Intel's counters (rapl), whichever the device has (auto):
    the named `rails`, else the one that feeds the others, else all. Or from a meter of your own: `command` is run by
    the device's shell and prints watts (or, with `unit` J, joules so far), one number a line, until it is ended. Each
    of `rounds` fresh processes works for `round_s` seconds after `idle_s` of rest; a round in which the sensor had
    fewer than `updates` new values is refused. A device measured so runs the sensor's readings, too. Cost: builds x
    rounds x (idle + round).
    """
    asked = {
        "source": source, "rails": list(rails), "command": command, "unit": unit, "idle_s": idle_s,
        "period_s": period_s, "updates": updates,
    }  # fmt: skip
    options = {**round_options(threads, batch, None, governor, None, MOST_LOAD), "energy": asked}
    taken = []
    for index in range(rounds):
        one = device.round(
            deployed.stored, device_samples, warmup_s=warmup_s, values=MOST_VALUES, budget_s=round_s, options=options
        )
        if not one.energy:
            raise qpipe.StageError(f"energy: {device.name} measures no energy; take energy out of measure")
        taken.append(one)
        progress(index + 1, rounds, "rounds")
    return [_measurement(metric, taken, deployed.name) for metric in METRICS]


def _measurement(metric: str, taken: Sequence[qpipe.Round], deployed: str) -> qpipe.Measurement:
    """A number of each round, of those that nothing disturbed where there are any; their median."""
    believed = [each for each in taken if not each.invalid] or taken
    values = [_of(metric, each) for each in believed]
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    first = believed[0].energy
    detail = {
        "source": first["source"], "rails": first["rails"], "period_s": first["period_s"],
        "updates": [each.energy["updates"] for each in taken], "seconds": [each.energy["seconds"] for each in taken],
        "inferences": [each.energy["inferences"] for each in taken],
        "idle_w": [each.energy["idle_w"] for each in taken],
    }  # fmt: skip
    conditions = [{"invalid": each.invalid, "environment": each.environment} for each in taken]
    raw = [[_of(metric, each)] for each in taken]
    return qpipe.Measurement(
        metric, median, "W" if metric == "power_w" else "mJ", low, high, len(values), deployed=deployed, rounds=raw,
        detail=detail, conditions=conditions,
    )  # fmt: skip


def _of(metric: str, taken: qpipe.Round) -> float:
    """The metric of one round."""
    found = taken.energy
    if metric == "power_w":
        return float(found["joules"] / found["seconds"])
    idle = found["idle_w"] * found["seconds"] if metric == "energy_net_mj" else 0.0
    return float(1000 * (found["joules"] - idle) / found["inferences"])
