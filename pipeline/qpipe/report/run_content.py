"""All that the report of a run is made of, read from the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qpipe.report.chart_rows import PlaceData, place_data
from qpipe.report.diagnosis_page import Report
from qpipe.report.run_results import RunResults, read_results
from qpipe.report.seen_samples import SeenSamples, seen_samples
from qpipe.report.training_chart import trained_steps
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.storage.rows import MeasurementRow, StepRow, TrainingRow
from qpipe.types import Capabilities


@dataclass(frozen=True)
class RunContent:
    """A run: its rows by model and device, its steps, and what its devices were."""

    results: RunResults
    places: Sequence[PlaceData]
    measurements: Sequence[MeasurementRow]
    steps: Sequence[StepRow]
    tags: Sequence[str]
    capabilities: Mapping[str, Capabilities]
    diagnoses: Sequence[Report]  # of networks of this run
    training: Sequence[TrainingRow]  # how it went, where networks were trained
    seen: Sequence[SeenSamples]  # of each model whose files are still in the cache
    options: Sequence[str]  # that name the run and its database in commands

    @property
    def unreachable(self) -> Mapping[str, str]:
        """Why each device that could not be reached was left out."""
        return self.results.unreachable

    @property
    def title(self) -> str:
        """The name of the recipe, marked where the run was a smoke run."""
        smoke = " (smoke run)" if self.results.is_smoke else ""
        return f"{self.results.run['recipe']}{smoke}"

    @property
    def models(self) -> list[str]:
        """The models that were measured."""
        return list(dict.fromkeys(place.where[0] for place in self.places))

    def diagnoses_of(self, model: str) -> list[Report]:
        """Return the diagnoses of a model."""
        return [diagnosis for diagnosis in self.diagnoses if diagnosis["model"] == model]

    def training_of(self, model: str) -> list[TrainingRow]:
        """Return how training of a model went, step by step that trained."""
        return trained_steps(self.training, model)

    def places_of(self, model: str) -> list[PlaceData]:
        """Return what was measured of a model, by device."""
        return [place for place in self.places if place.where[0] == model]


def read_content(
    store: Store,
    run: str,
    options: Sequence[str] = (),
    *,
    results: RunResults | None = None,
    cache: Path | None = None,
) -> RunContent:
    """Read a run; `results` where they were read already, `cache` to show what networks saw."""
    run_results = results or read_results(store, run)
    places = [place_data(run_results, place) for place in run_results.places]
    steps = store.steps(run)
    return RunContent(
        results=run_results,
        places=places,
        measurements=store.measurements(run),
        steps=steps,
        tags=store.tags().get(run, []),
        capabilities=store.capabilities(run),
        diagnoses=_diagnoses(store, run_results, steps),
        training=store.training(run),
        seen=seen_samples(places, steps, Cache(cache)) if cache and cache.is_dir() else (),
        options=options,
    )


def _diagnoses(store: Store, results: RunResults, steps: Sequence[StepRow]) -> list[Report]:
    """Return what `qpipe diagnose` found out about the very networks that a run deployed."""
    keys = {step["key"] for step in steps if step["kind"] == "deploy"}
    folder = store.path.parent / "diagnose" / results.run["recipe"]
    reports: list[Report] = []
    for file in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            report = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(report, dict) and report.get("key") in keys:
                reports.append(report)
    return reports
