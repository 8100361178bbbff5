"""Latency of all that was deployed on a device, in interleaved rounds, so that drift and heat fall on all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import qpipe
from qpipe.compare.round_statistics import FEWEST, looks
from qpipe.stages.bounds import Core, Count, Seconds, Share, Threads, Wait
from qpipe_plugins.measure.interleaved_rounds import Interleaved
from qpipe_plugins.measure.round_journal import Journal
from qpipe_plugins.measure.round_options import round_options
from qpipe_plugins.measure.sustained_load import sustained
from qpipe_plugins.measure.timing_metrics import is_precise, measurements

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
    """Time every deployed build in turn, each round of each in a fresh process; medians, tails, and the ratio to float.

    `values` inferences a round, fewer where they would exceed `round_s` seconds. It ends after 6, 10, 16, 26, ...
    rounds, once the interval of every build's median is within `precision` of it (0: never), or after `rounds`, or,
    from 6 rounds on, when `budget_s` seconds are over. Intervals are over rounds. A build that fails drops out, and the
    others go on. Inputs have the shapes that import gave the network. Cost: builds x rounds x (start + warmup +
    values).

    `threads` of one inference, else those of the build; `batch` samples in each, of builds that take so many
    (onnxruntime: {free_batch: true}); on the cores of `affinity` alone. `governor` is set for each round and put back
    after it, where this user may. `cool_to_c`: no round starts while the CPU is hotter, for ten minutes at most. A
    round counts as disturbed, and does not count, where the device throttled, its clocks were changed, or others took
    more than `max_load` of those cores.
    `sustained_s` seconds of load without a pause follow for each build: sustained_ms.
    """
    options = round_options(threads, batch, affinity, governor, cool_to_c, max_load)
    asked = {"warmup_s": warmup_s, "values": values, "budget_s": round_s, "options": options}
    journal = Journal(workdir / "rounds.jsonl", asked)
    timing = Interleaved("latency", deployments.present, device, device_samples, journal, asked)
    stopped = _time(timing, rounds, precision, budget_s, progress)
    looked = bool(precision and looks(rounds - 1))
    found: list[qpipe.Measurement] = []
    running = timing.running
    loads = (
        timing.again(workdir / "sustained.jsonl", progress, sustained_s=sustained_s)
        if sustained_s
        else {}
    )
    for each in running:
        own = timing.taken[each.name]
        floats = timing.taken.get(float_of(each, running))
        told = measurements(own, floats, stopped, precision, looked=looked)
        if each.name in loads and loads[each.name].sustained:
            told.append(sustained(loads[each.name], told[0].value))
        found += [replace(one, deployed=each.name) for one in told]
    return timing.complete(found)


def _time(
    timing: Interleaved, rounds: int, precision: float, budget_s: float, progress: qpipe.Progress
) -> str:
    """Take rounds until all are precise, or the budget is over, or there are enough; says which."""
    planned = looks(rounds - 1) if precision else []
    for count in timing.take(rounds, progress):
        if count in planned and all(
            is_precise(timing.taken[each.name], precision) for each in timing.running
        ):
            return "precision"
        if FEWEST <= count < rounds and timing.journal.seconds > budget_s:
            return "budget"
    return "rounds"


def float_of(deployed: qpipe.Deployed, among: Sequence[qpipe.Deployed]) -> str:
    """The name of another build that is float, of the same model and of the same compile stage where there is one; none
    for a float."""
    model, _, rest = deployed.name.partition("/")
    floats = [each.name for each in among if each.is_float and each.name.partition("/")[0] == model]
    same = [name for name in floats if name.rpartition("/")[2] == rest.rpartition("/")[2]]
    return "" if deployed.is_float else next(iter(same or floats), "")
