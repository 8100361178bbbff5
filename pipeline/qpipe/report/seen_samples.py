"""What the network saw: a few samples of a run with what float and a scheme predict for them.

Those come first whose answers were not those of float on the device, then those whose outputs
differ most. Predictions are computed on this machine, from the very files that were deployed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpipe.compare.pareto import JudgedRow
from qpipe.engine import stage_results
from qpipe.errors import QpipeError
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.inference import open_file, sample_outputs
from qpipe.quant.network_inputs import network_inputs
from qpipe.report.chart_rows import PlaceData
from qpipe.report.samples_report import FedSample
from qpipe.samples.sample_feeds import NetworkInputs
from qpipe.samples.store import Samples
from qpipe.stages import registry
from qpipe.stages.options import check
from qpipe.storage.cache import Cache
from qpipe.storage.rows import StepRow
from qpipe.types import Array, Build, Preprocessing

SHOWN_SAMPLES = 4
MOST_COMPARED = 48  # samples whose outputs are compared, and the seconds after which no more are
COMPARING_S = 3.0

Outputs = Mapping[str, Array]
Postprocess = Callable[[Outputs], Any]


@dataclass(frozen=True)
class SeenSample:
    """A sample as it was fed, with the prediction of float, and that of the scheme."""

    by_float: FedSample
    by_scheme: FedSample


@dataclass(frozen=True)
class SeenSamples:
    """Samples of a model on a device, those that differ most first."""

    title: str  # of the model and the device
    scheme: str
    samples: Sequence[SeenSample]
    preprocessing: Mapping[str, Preprocessing]  # by input of the network
    class_names: Sequence[str]
    sample_rate: int | None  # of sounds, in Hz


def seen_samples(
    places: Sequence[PlaceData], steps: Sequence[StepRow], cache: Cache
) -> list[SeenSamples]:
    """Return samples of each model, on the first device that has a quantized row.

    A model is left out where the cache no longer has what it takes, or where ONNX Runtime does not
    run its files.
    """
    by_model: dict[str, PlaceData] = {}
    for place in places:
        if _chosen_row(place) is not None:
            by_model.setdefault(place.where[0], place)
    found = []
    for place in by_model.values():
        try:
            seen = _seen_at(place, steps, cache)
        except (QpipeError, OSError, KeyError, ValueError):
            continue
        if seen is not None:
            found.append(seen)
    return found


def _chosen_row(place: PlaceData) -> JudgedRow | None:
    """Return the row to ship, else the first quantized one of the front, else the first one."""
    quantized = [judged for judged in place.judged if not judged.row["is_float"]]
    shipped = [judged for judged in quantized if judged.row["name"] == place.shipped]
    front = [judged for judged in quantized if judged.row["on_front"]]
    return next(iter([*shipped, *front, *quantized]), None)


def _seen_at(place: PlaceData, steps: Sequence[StepRow], cache: Cache) -> SeenSamples | None:
    chosen = _chosen_row(place)
    by_float = next((judged for judged in place.judged if judged.row["is_float"]), None)
    if chosen is None or by_float is None:
        return None
    step = _scoring_step(chosen, steps)
    samples_step = _samples_step(step, steps, cache)
    samples = Samples(cache.value_folder("samples", samples_step["key"]) / "evaluation")
    builds = [_build(judged, steps, cache) for judged in (by_float, chosen)]
    likely, answers = _likely_different(chosen, len(samples))
    outputs = _infer_both(builds, samples, likely)
    order = sorted(outputs, key=lambda index: (answers[index], _likeness(outputs[index])))
    decode = _postprocess(step) or _as_it_is
    network = network_inputs(open_file(builds[0].folder / builds[0].manifest["model"]))
    rate = (samples_step["key_fields"].get("options") or {}).get("rate")
    return SeenSamples(
        title=place.title,
        scheme=chosen.row["name"],
        samples=[
            SeenSample(
                *(_fed_sample(samples, index, network, decode(each)) for each in outputs[index])
            )
            for index in order[:SHOWN_SAMPLES]
        ],
        preprocessing=samples.preprocessing,
        class_names=samples.classes,
        sample_rate=rate if isinstance(rate, int) else None,
    )


# ---- what the run left


def _scoring_step(judged: JudgedRow, steps: Sequence[StepRow]) -> StepRow:
    """Return the step that scored a row; KeyError where none did."""
    row = judged.row
    place = (row["model"], row["scheme"], row["build"], row["device"])
    for step in steps:
        coordinates = (step["model"], step["scheme"], step["build"], step["device"])
        needs = (step["key_fields"] or {}).get("needs") or {}
        if step["kind"] == "measure" and coordinates == place and "evaluation_samples" in needs:
            return step
    raise KeyError("no step that scored the row")


def _samples_step(scoring: StepRow, steps: Sequence[StepRow], cache: Cache) -> StepRow:
    """Return the step of the samples that a step scored: models may have their own."""
    digest = scoring["key_fields"]["needs"]["evaluation_samples"]
    for step in steps:
        if step["kind"] == "samples" and step["key"]:
            folder = cache.get("samples", step["key"])
            if folder and stage_results.sample_digests(folder)["evaluation"] == digest:
                return step
    raise KeyError("the samples have left the cache")


def _build(judged: JudgedRow, steps: Sequence[StepRow], cache: Cache) -> Build:
    """Return the build of a row; KeyError where it has left the cache."""
    row = judged.row
    name = f"{row['model']}/{row['scheme']}/{row['build']}@{row['device']}"
    (step,) = (step for step in steps if step["step"] == name)
    folder = cache.get("compile", step["key_fields"]["needs"]["build"])
    if folder is None:
        raise KeyError("the build has left the cache")
    return Build.read(folder)


def _postprocess(step: StepRow) -> Postprocess | None:
    """Return the postprocess that a step scored with; None where there is none, or no longer."""
    value = (step["key_fields"].get("options") or {}).get("postprocess")
    if not isinstance(value, dict):
        return None
    stage = registry.load().stages.get(("postprocess", value["name"]))
    if stage is None:  # of a file that the recipe named
        return None
    return functools.partial(
        stage.function, **check(stage.function, value.get("options") or {}, stage.name)
    )


def _as_it_is(outputs: Outputs) -> Any:
    return outputs


# ---- predictions


def _likely_different(judged: JudgedRow, count: int) -> tuple[list[int], list[float]]:
    """Return all samples, those first that agree least with float on the device, and how much."""
    agreement = judged.candidate.metrics.get("agreement")
    values: list[float] = []
    if agreement is not None and agreement.raw == "samples":
        values = [value for values in agreement.rounds for value in values]
    if len(values) != count:
        values = [1.0] * count
    return [int(index) for index in np.argsort(values, kind="stable")], values


def _infer_both(
    builds: Sequence[Build], samples: Samples, indices: Sequence[int]
) -> dict[int, list[Outputs]]:
    """Return the outputs of both networks, of as many samples as there is time for."""
    sessions = [open_file(build.folder / build.manifest["model"]) for build in builds]
    started = time.monotonic()
    found: dict[int, list[Outputs]] = {}
    for index in indices[:MOST_COMPARED]:
        if len(found) >= SHOWN_SAMPLES and time.monotonic() - started > COMPARING_S:
            break
        found[index] = [next(sample_outputs(session, samples, [index])) for session in sessions]
    return found


def _likeness(pair: Sequence[Outputs]) -> float:
    """Return the SQNR in dB of the output that differs most."""
    expected, actual = pair
    ratios = [
        sqnr_db(expected[name], actual[name])
        for name in expected
        if name in actual and actual[name].shape == expected[name].shape
    ]
    return min(ratios, default=math.inf)


def _fed_sample(samples: Samples, index: int, network: NetworkInputs, prediction: Any) -> FedSample:
    feeds = samples.sequence(index, network).sample_inputs()
    inputs = {
        name: array if array.shape[:1] == (1,) else array[np.newaxis]
        for name, array in feeds.items()
    }
    sample = samples[index]
    return FedSample(sample.id, "evaluation", inputs, sample.target, prediction)
