"""What the network saw: a few samples of a run with what float and a scheme predict for them.

Those come first whose answers were not those of float on the device, then those whose outputs
differ most. Predictions are computed on this machine, from the very files that were deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qpipe.compare.pareto import JudgedRow
from qpipe.engine import stage_results
from qpipe.engine.own_process import run_in_own_process
from qpipe.engine.scoring_record import POSTPROCESS
from qpipe.errors import QpipeError
from qpipe.report.both_predictions import (
    ComparedNetworks,
    SeenSample,
    infer_by_both,
    predict_by_both,
)
from qpipe.report.chart_rows import PlaceData
from qpipe.report.kept_outputs import kept_outputs, outputs_key
from qpipe.samples.store import Samples
from qpipe.storage.cache import Cache
from qpipe.storage.rows import StepRow
from qpipe.types import Build, Preprocessing


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
    folder = cache.value_folder("samples", samples_step["key"]) / "evaluation"
    samples = Samples(folder)
    likely, answers = _likely_different(chosen, len(samples))
    builds = [_build_key(judged, steps) for judged in (by_float, chosen)]
    files = [_network_file(build, cache) for build in builds]
    compared = ComparedNetworks(
        float_file=files[0],
        scheme_file=files[1],
        samples=folder,
        indices=likely,
        answers=answers,
        postprocess=_postprocess_folder(step, cache),
    )
    evaluated = step["key_fields"]["needs"]["evaluation_samples"]
    outputs = kept_outputs(
        cache,
        outputs_key(builds, evaluated, answers),
        # in a process of its own: a runtime that crashes takes no run with it
        lambda: run_in_own_process(infer_by_both, compared, _ignore, place.title),
    )
    rate = (samples_step["key_fields"].get("options") or {}).get("rate")
    return SeenSamples(
        title=place.title,
        scheme=chosen.row["name"],
        samples=predict_by_both(compared, outputs),
        preprocessing=samples.preprocessing,
        class_names=samples.classes,
        sample_rate=rate if isinstance(rate, int) else None,
    )


def _ignore(_: str) -> None:
    pass


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


def _build_key(judged: JudgedRow, steps: Sequence[StepRow]) -> str:
    """Return the key of a row's build."""
    row = judged.row
    name = f"{row['model']}/{row['scheme']}/{row['build']}@{row['device']}"
    (step,) = (step for step in steps if step["step"] == name)
    return str(step["key_fields"]["needs"]["build"])


def _network_file(build: str, cache: Cache) -> Path:
    """Return the file of a build's network; KeyError where it has left the cache."""
    folder = cache.get("compile", build)
    if folder is None:
        raise KeyError("the build has left the cache")
    return folder / str(Build.read(folder).manifest["model"])


def _postprocess_folder(step: StepRow, cache: Cache) -> Path | None:
    """Return where the postprocess lies that a step scored with; None where there is none."""
    folder = cache.get("measure", step["key"])
    if folder is None or not (folder / POSTPROCESS).is_dir():
        return None
    return folder / POSTPROCESS


def _likely_different(judged: JudgedRow, count: int) -> tuple[list[int], list[float]]:
    """Return all samples, those first that agree least with float on the device, and how much."""
    agreement = judged.candidate.metrics.get("agreement")
    values: list[float] = []
    if agreement is not None and agreement.raw == "samples":
        values = [value for values in agreement.rounds for value in values]
    if len(values) != count:
        values = [1.0] * count
    return [int(index) for index in np.argsort(values, kind="stable")], values
