"""The ladder: what is scored of a network on its way, original, transformed, simulated, on the host, on the device."""

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
from qpipe.engine import run as engine_run
from qpipe.errors import DeviceError
from qpipe.quant.inference import session
from qpipe.recipe import inventory
from qpipe.recipe.recipe import Recipe, scoring
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.stages.registry import Registry
from qpipe.storage.results import COORDINATES, Store
from qpipe.types import Array, Metric, Progress

USUAL = ("agreement", "sqnr")  # scored where a recipe asks for no accuracy
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Rung:
    """What was scored at one place, on so many samples; `note` says where the numbers come from, or why none came."""

    name: str
    metrics: Mapping[str, float]
    samples: int
    note: str = ""


Say = Callable[[str], None]  # tells the user, as that it waits for the device


def climb(
    case: Case, store: Store, indices: Sequence[int], progress: Progress, say: Say
) -> list[Rung]:
    """Score every rung against the original float network: on the host on these evaluation samples; on the device by
    the newest run that measured this build there, else on the same samples now."""
    scorer = _scorer(case, indices)
    reference = list(_infer(case.original, case.samples, indices, optimize=True))
    rungs = [Rung("original", scorer(reference, reference), len(indices), "float, as imported")]
    networks: list[tuple[str, ir.Model | None, bool, str]] = [
        ("transformed", case.transformed, False, "float, after the scheme's transforms"),
        ("simulated", case.quantized, False, "quantized, without the runtime's optimizations"),
        ("host", _built(case), True, "the build, on integer kernels here"),
    ]
    for done, (name, network, optimize, note) in enumerate(networks):
        progress(done, len(networks) + 1, "rungs")
        if network is not None:
            outputs = _infer(network, case.samples, indices, optimize=optimize)
            rungs.append(Rung(name, scorer(outputs, reference), len(indices), note))
    return [
        *rungs,
        _stored(case, store) or _on_device(case, indices, scorer, reference, progress, say),
    ]


def _infer(
    network: ir.Model, samples: Samples, indices: Sequence[int], *, optimize: bool
) -> Iterator[Outputs]:
    running = session(network, optimize=optimize)
    inputs, outputs = (
        [value.name for value in own] for own in (running.get_inputs(), running.get_outputs())
    )
    for index in indices:
        yield dict(zip(outputs, running.run(None, samples.feeds(index, inputs)), strict=True))


def _built(case: Case) -> ir.Model | None:
    """The network of the build; None where that is no ONNX file."""
    file = case.build.folder / str(case.build.manifest.get("model", ""))
    return ir.load(file) if file.suffix == ".onnx" and file.is_file() else None


# ---- scores

Scorer = Callable[[Iterable[Outputs], Sequence[Outputs]], dict[str, float]]


def _scorer(case: Case, indices: Sequence[int]) -> Scorer:
    """Scores by the recipe's metrics and postprocess, those left out that these outputs are nothing for."""
    metrics, postprocess = _metrics(case.session.recipe, case.session.plugins)

    def score(outputs: Iterable[Outputs], reference: Sequence[Outputs]) -> dict[str, float]:
        scores = Scores([], postprocess, usual=metrics)
        for index, own, of_float in zip(indices, outputs, reference, strict=True):
            scores.add(case.samples[index], own, of_float)
        return {each.metric: each.value for each in scores.measurements()}

    return score


def _metrics(
    recipe: Recipe, plugins: Registry
) -> tuple[list[Metric], Callable[[Outputs], Any] | None]:
    found = [own for call in recipe.measure if (own := scoring(call))["metric"]]
    if not found:
        return [plugins.stage("metric", name).function() for name in USUAL], None
    metrics = [each.stage.function(**each.resolved()) for each in found[0]["metric"]]
    return metrics, _bound(found[0]["postprocess"])


def _bound(call: Call | None) -> Callable[[Outputs], Any] | None:
    if call is None:
        return None
    own = call.resolved()
    return lambda outputs: call.stage.function(outputs, **own)


# ---- the device


def _stored(case: Case, store: Store) -> Rung | None:
    """What the newest run measured of this very build on the device, on all its evaluation samples."""
    digest = cache_keys.digest(case.build.folder)
    for run in store.runs(case.session.recipe.name):
        rows = [
            row
            for row in store.measurements(run["id"])
            if row["build_digest"] == digest
            and all(row[name] == case.deploy.coordinates[name] for name in COORDINATES)
        ]
        scored = {row["metric"]: row for row in rows if row["raw"] in ("samples", "resamples")}
        if scored:
            values = {name: float(row["value"]) for name, row in scored.items()}
            note = f"measured by run {run['id']}, on its own samples: not those above"
            return Rung("device", values, max(row["n"] for row in scored.values()), note)
    return None


def _on_device(
    case: Case,
    indices: Sequence[int],
    scorer: Scorer,
    reference: Sequence[Outputs],
    progress: Progress,
    say: Say,
) -> Rung:
    name = case.deploy.coordinates["device"]
    device = inventory.open_device(name, case.session.devices[name])
    try:
        engine_run.reach(device, say)
        with tempfile.TemporaryDirectory() as folder:
            own = case.samples
            few = Samples.write(
                Path(folder), [own[index] for index in indices], own.preprocessing, own.classes
            )
            build, samples = (
                device.store(each, progress) for each in (case.build.folder, few.folder)
            )
            found = scorer(device.infer(build, samples, len(few)), reference)
            return Rung("device", found, len(few), f"inferred on {name} now")
    except DeviceError as error:
        return Rung("device", {}, 0, str(error))
    finally:
        with suppress(DeviceError):
            device.close()
