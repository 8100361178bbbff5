"""Latency of all builds on a device, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import qpipe
from qpipe.compare.round_statistics import FEWEST, check_points
from qpipe.stages.bounds import Core, Count, Seconds, Share, Threads, Wait
from qpipe_plugins.measure.interleaved_rounds import InterleavedRounds
from qpipe_plugins.measure.round_journal import RoundJournal, RoundRequest
from qpipe_plugins.measure.round_options import round_options
from qpipe_plugins.measure.sustained_load import sustained_latency
from qpipe_plugins.measure.timing_metrics import is_precise, timing_measurements

METRICS = (
    "latency_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "latency_min_ms",
    "throughput",
    "load_ms",
    "first_ms",
    "latency_ratio",
    "sustained_ms",
)


def latency(
    deployments: qpipe.Deployments,
    device: qpipe.Device,
    device_samples: Mapping[str, qpipe.Stored],
    workdir: Path,
    progress: qpipe.Progress,
    *,
    rounds: Count = 16,
    values: Count = 50,
    warmup_s: Wait = 0.3,
    round_s: Seconds = 5,
    precision: Share = 0.01,
    budget_s: Seconds = 300,
    threads: Threads | None = None,
    batch: Count = 1,
    affinity: Sequence[Core] | None = None,
    governor: str | None = None,
    cool_to_c: float | None = None,
    max_load: Share = 0.25,
    sustained_s: Wait = 0,
) -> list[qpipe.Measurement]:
    """Time all builds in interleaved rounds of fresh processes: medians, tails, ratio to float.

    A round has `values` inferences, fewer where they would exceed `round_s` seconds. Measuring ends
    after 6, 10, 16, 26, ... rounds, once the interval of every build's median is within `precision`
    of it (0: never), or after `rounds`, or, from 6 rounds on, after `budget_s` seconds. Intervals
    are over rounds. A build that fails drops out, and the others go on. Inputs have the shapes that
    import gave the network; sizes that it left open are those of the first evaluation sample. Cost:
    builds x rounds x (start + warmup + values).

    `threads` of one inference, by default those of the build; `batch` samples in each, for builds
    that take any number (onnxruntime: {dynamic_batch: true}); only on the cores of `affinity`.
    `governor` is set for each round and restored after it, where this user may. `cool_to_c`: no
    round starts while the CPU is hotter, for ten minutes at most. A round does not count where the
    device throttled, its clocks were changed, or other processes took more than `max_load` of those
    cores. With `sustained_s`, a load of so many seconds without a pause follows for each build, and
    gives sustained_ms.
    """
    options = round_options(
        threads=threads,
        batch=batch,
        affinity=affinity,
        governor=governor,
        cool_to_c=cool_to_c,
        max_load=max_load,
    )
    request: RoundRequest = {
        "warmup_s": warmup_s,
        "values": values,
        "budget_s": round_s,
        "options": options,
    }
    journal = RoundJournal(workdir / "rounds.jsonl", request)
    timing = InterleavedRounds(
        "latency", deployments.present, device, device_samples, journal, request
    )
    stopped = _measure(
        timing, rounds=rounds, precision=precision, budget_s=budget_s, progress=progress
    )
    running = timing.running
    loads: Mapping[str, qpipe.Round] = {}
    if sustained_s:
        loads = timing.measure_sustained(workdir / "sustained.jsonl", progress, sustained_s)
    measurements: list[qpipe.Measurement] = []
    for build in running:
        of_build = timing_measurements(
            timing.rounds[build.name],
            timing.rounds.get(float_build_of(build, running)),
            stopped=stopped,
            precision=precision,
            may_stop_early=bool(precision and check_points(rounds - 1)),
        )
        load = loads.get(build.name)
        if load and load.sustained:
            of_build.append(sustained_latency(load, burst_ms=of_build[0].value))
        measurements += [replace(measurement, deployed=build.name) for measurement in of_build]
    return timing.complete(measurements)


def _measure(
    timing: InterleavedRounds,
    *,
    rounds: int,
    precision: float,
    budget_s: float,
    progress: qpipe.Progress,
) -> str:
    """Measure until all medians are precise, the budget is spent or all rounds are done.

    Return which of these it was: precision, budget or rounds.
    """
    checks = check_points(rounds - 1) if precision else []
    for count in timing.measure(rounds, progress):
        if count in checks and _all_precise(timing, precision):
            return "precision"
        if FEWEST <= count < rounds and timing.journal.seconds > budget_s:
            return "budget"
    return "rounds"


def _all_precise(timing: InterleavedRounds, precision: float) -> bool:
    return all(is_precise(timing.rounds[build.name], precision) for build in timing.running)


def float_build_of(deployed: qpipe.Deployed, builds: Sequence[qpipe.Deployed]) -> str:
    """Return the name of the float build to compare with, of the same model.

    It is of the same compile stage where there is one. Empty for a float build.
    """
    if deployed.is_float:
        return ""
    model, _, _ = deployed.name.partition("/")
    _, _, build = deployed.name.rpartition("/")
    floats = [
        candidate.name
        for candidate in builds
        if candidate.is_float and candidate.name.partition("/")[0] == model
    ]
    for name in floats:
        if name.rpartition("/")[2] == build:
            return name
    return floats[0] if floats else ""
