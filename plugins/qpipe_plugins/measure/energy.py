"""Energy of an inference, by the sensors of the device or by a meter."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import qpipe
from qpipe.stages.bounds import Core, Count, Seconds, Share, Threads, Wait
from qpipe_plugins.measure.interleaved_rounds import InterleavedRounds
from qpipe_plugins.measure.round_journal import RoundJournal, RoundRequest, interval
from qpipe_plugins.measure.round_options import round_options
from qpipe_plugins.measure.timing_metrics import doubt, undisturbed

METRICS = ("energy_mj", "energy_net_mj", "power_w")
MOST_VALUES = 100_000  # inferences in a round, at most


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
    """Measure the energy of an inference in mJ: in total, and net of the idle device.

    It comes from power monitors (INA219, INA226, INA3221: hwmon) or Intel's counters (rapl),
    whichever the device has (auto): the named `rails`, else the one that feeds the others, else
    all. Or from a meter of your own: `command` runs in the device's shell, or the host's
    (`command_on`), and prints watts (with `unit` J: joules so far), one number a line, until it is
    ended. All builds are measured in turn, as for latency: each of `rounds` fresh processes for
    `round_s` seconds, after `idle_s` of rest. A round with fewer than `updates` new values of the
    sensor is refused. The energy includes reading the sensor. `threads`, `batch`, `affinity`,
    `governor`, `cool_to_c` and `max_load` are as for latency. Cost: builds x rounds x (idle +
    round).
    """
    if command_on == "host" and not command:
        raise qpipe.StageError(
            "energy: a meter at the host is a command; give one, or leave command_on out"
        )
    options = round_options(
        threads=threads,
        batch=batch,
        affinity=affinity,
        governor=governor,
        cool_to_c=cool_to_c,
        max_load=max_load,
    )
    options["energy"] = {
        "source": source,
        "rails": list(rails),
        "command": command,
        "command_on": command_on,
        "unit": unit,
        "idle_s": idle_s,
        "period_s": period_s,
        "updates": updates,
    }
    request: RoundRequest = {
        "warmup_s": warmup_s,
        "values": MOST_VALUES,
        "budget_s": round_s,
        "options": options,
    }
    journal = RoundJournal(workdir / "rounds.jsonl", request)
    metering = InterleavedRounds(
        "energy", deployments.present, device, device_samples, journal, request
    )
    for _ in metering.measure(rounds, progress):
        _check_readings(metering, device.name)
    measurements: list[qpipe.Measurement] = []
    for build in metering.running:
        build_rounds = metering.rounds[build.name]
        measurements += [_measurement(metric, build_rounds, build.name) for metric in METRICS]
    return metering.complete(measurements)


def _check_readings(metering: InterleavedRounds, device: str) -> None:
    """Raise StageError where the last round of a build has no energy."""
    for build_rounds in metering.rounds.values():
        if build_rounds and not build_rounds[-1].energy:
            raise qpipe.StageError(
                f"energy: {device} measures no energy; take energy out of measure"
            )


def _measurement(metric: str, rounds: Sequence[qpipe.Round], deployed: str) -> qpipe.Measurement:
    """Return the median of a metric over the rounds that count, and its value of each round."""
    counted = undisturbed(rounds)
    values = [_value(metric, metered) for metered in counted]
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    reading = counted[0].energy
    detail = {
        "source": reading["source"],
        "rails": reading["rails"],
        "period_s": reading["period_s"],
        "updates": [metered.energy["updates"] for metered in rounds],
        "seconds": [metered.energy["seconds"] for metered in rounds],
        "inferences": [metered.energy["inferences"] for metered in rounds],
        "idle_w": [metered.energy["idle_w"] for metered in rounds],
        **doubt([metered.invalid for metered in rounds]),
    }
    conditions = [
        {"invalid": metered.invalid, "environment": metered.environment} for metered in rounds
    ]
    return qpipe.Measurement(
        metric,
        median,
        "W" if metric == "power_w" else "mJ",
        low,
        high,
        len(values),
        deployed=deployed,
        rounds=[[_value(metric, metered)] for metered in rounds],
        detail=detail,
        conditions=conditions,
    )


def _value(metric: str, metered: qpipe.Round) -> float:
    """Return a metric of one round."""
    reading = metered.energy
    joules = reading["joules"]
    if metric == "power_w":
        return float(joules / reading["seconds"])
    if metric == "energy_net_mj":
        joules -= reading["idle_w"] * reading["seconds"]
    return float(1000 * joules / reading["inferences"])
