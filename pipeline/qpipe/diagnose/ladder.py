"""The ladder: scores of a network on its way: original, transformed, simulated, host, device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qpipe.compare.scoring import Scores
from qpipe.diagnose.scheme_networks import Case
from qpipe.engine import cache_keys
from qpipe.engine.device_health import wait_for_turn
from qpipe.errors import DeviceError
from qpipe.quant.inference import open_session, sample_outputs
from qpipe.quant.network_inputs import set_states, states_of
from qpipe.recipe import inventory
from qpipe.recipe.recipe import Recipe, scoring
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.stages.registry import Registry
from qpipe.storage.results import Store
from qpipe.storage.rows import COORDINATES
from qpipe.types import Array, Metric, Progress

DEFAULT_METRICS = ("agreement", "sqnr")  # where a recipe asks for no accuracy

Outputs = Mapping[str, Array]
Notify = Callable[[str], None]  # tells the user, for example of waiting for the device


@dataclass(frozen=True)
class Rung:
    """The scores at one place; `note` says where they come from, or why there are none."""

    name: str
    metrics: Mapping[str, float]
    samples: int
    note: str = ""


def climb(
    case: Case, store: Store, indices: Sequence[int], progress: Progress, notify: Notify
) -> list[Rung]:
    """Score every rung against the original float network.

    On the host the samples are those at `indices`; on the device they are those of the newest run
    that measured this build there, or else those at `indices`, now.
    """
    scorer = _Scorer(case, indices)
    rungs = [scorer.rung("original", scorer.reference, "float, as imported")]
    networks: list[tuple[str, ir.Model | None, str]] = [
        ("transformed", case.transformed, "float, after the scheme's transforms"),
        ("simulated", case.quantized, "quantized, without the runtime's optimizations"),
        ("host", _built_network(case), "the build, on integer kernels here"),
    ]
    for done, (name, network, note) in enumerate(networks):
        progress(done, len(networks) + 1, "rungs")
        if network is not None:
            outputs = _infer(network, case.samples, indices, optimize=name == "host")
            rungs.append(scorer.rung(name, outputs, note))
    device_rung = _stored_rung(case, store) or _device_rung(case, scorer, progress, notify)
    return [*rungs, device_rung]


def _infer(
    network: ir.Model, samples: Samples, indices: Sequence[int], *, optimize: bool
) -> Iterator[Outputs]:
    session = open_session(network, optimize=optimize)
    yield from sample_outputs(session, samples, indices)


def _built_network(case: Case) -> ir.Model | None:
    """Return the network of the build; None where it is no ONNX file."""
    file = case.build.folder / str(case.build.manifest.get("model", ""))
    if file.suffix != ".onnx" or not file.is_file():
        return None
    network = ir.load(file)
    set_states(network, states_of(case.original))
    return network


# ---- scores


class _Scorer:
    """Scores outputs against those of the original float network.

    The metrics and the postprocess are those of the recipe, without metrics that do not apply.
    """

    def __init__(self, case: Case, indices: Sequence[int]) -> None:
        self.case = case
        self.indices = indices
        self.reference = list(_infer(case.original, case.samples, indices, optimize=True))
        self.metrics, self.postprocess = _scoring_of(case.resolved.recipe, case.resolved.plugins)

    def rung(self, name: str, outputs: Iterable[Outputs], note: str) -> Rung:
        has_states = bool(states_of(self.case.original))
        scores = Scores([], self.postprocess, usual=self.metrics, are_sequences=has_states)
        rows = zip(self.indices, outputs, self.reference, strict=True)
        for index, outputs_of_sample, float_outputs in rows:
            scores.add(self.case.samples[index], outputs_of_sample, float_outputs)
        values = {measurement.metric: measurement.value for measurement in scores.measurements()}
        return Rung(name, values, len(self.indices), note)


def _scoring_of(
    recipe: Recipe, plugins: Registry
) -> tuple[list[Metric], Callable[[Outputs], Any] | None]:
    """Return metrics and postprocess of the recipe's first stage that scores."""
    for call in recipe.measure:
        stages = scoring(call)
        if stages["metric"]:
            metrics = [metric.stage.function(**metric.resolved()) for metric in stages["metric"]]
            return metrics, _bound_postprocess(stages["postprocess"])
    return [plugins.stage("metric", name).function() for name in DEFAULT_METRICS], None


def _bound_postprocess(call: Call | None) -> Callable[[Outputs], Any] | None:
    if call is None:
        return None
    function = call.stage.function
    options = call.resolved()
    return lambda outputs: function(outputs, **options)


# ---- the device


def _stored_rung(case: Case, store: Store) -> Rung | None:
    """Return what the newest run measured of this build on the device, on its own samples."""
    digest = cache_keys.digest(case.build.folder)
    coordinates = case.deploy.coordinates
    for run in store.runs(case.resolved.recipe.name):
        scores: dict[str, float] = {}
        sample_count = 0
        for row in store.measurements(run["id"]):
            is_same_place = all(row[name] == coordinates[name] for name in COORDINATES)
            is_score = row["raw"] in ("samples", "resamples")
            if row["build_digest"] == digest and is_same_place and is_score:
                scores[row["metric"]] = float(row["value"])
                sample_count = max(sample_count, row["n"])
        if scores:
            note = f"measured by run {run['id']}, on its own samples: not those above"
            return Rung("device", scores, sample_count, note)
    return None


def _device_rung(case: Case, scorer: _Scorer, progress: Progress, notify: Notify) -> Rung:
    """Infer the samples on the device now."""
    name = case.deploy.coordinates["device"]
    device = inventory.open_device(name, case.resolved.devices[name])
    try:
        wait_for_turn(device, notify)
        with tempfile.TemporaryDirectory() as folder:
            samples = Samples.write(
                Path(folder),
                [case.samples[index] for index in scorer.indices],
                case.samples.preprocessing,
                case.samples.classes,
            )
            stored_build = device.store(case.build.folder, progress)
            stored_samples = device.store(samples.folder, progress)
            outputs = device.infer(stored_build, stored_samples, len(samples))
            return scorer.rung("device", outputs, f"inferred on {name} now")
    except DeviceError as error:
        return Rung("device", {}, 0, str(error))
    finally:
        with suppress(DeviceError):
            device.close()
