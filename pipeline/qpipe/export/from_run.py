"""The bundle of a row of a run: its build and its samples, as the run left them in the cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from qpipe.compare.json_rows import ParetoRow
from qpipe.compare.pareto import pareto_rows
from qpipe.engine import cache_keys, stage_results
from qpipe.engine.scoring_record import POSTPROCESS, first_index
from qpipe.errors import QpipeError, suggest
from qpipe.export.bundle import Manifest, gather_facts, write_bundle
from qpipe.export.sample_handling import NamedStage, SampleHandling
from qpipe.samples.store import Samples
from qpipe.storage.cache import Cache
from qpipe.storage.results import Store
from qpipe.storage.rows import Coordinate, MeasurementRow, StepRow
from qpipe.types import Build

Selection = Mapping[Coordinate, str | None]  # None where any value fits


def hand_over(
    store: Store,
    run: str,
    selection: Selection,
    cache: Cache,
    out: Path,
    *,
    force: bool = False,
) -> Manifest:
    """Write the bundle of the one row that has the selected coordinates; return its manifest.

    Raise QpipeError where no row has them or several do, where the cache no longer holds the
    measured build, or where the folder holds other files, unless `force` is given.
    """
    row = _select_row(pareto_rows(store, run), selection)
    name = f"{row['model']}/{row['scheme']}/{row['build']}"
    measurements = _measurements_of(row, store.measurements(run))
    build = _measured_build(store, run, cache, f"{name}@{row['device']}")
    if {measurement["build_digest"] for measurement in measurements} != {cache_keys.digest(build)}:
        raise QpipeError(
            f"export: the build of {name} in {cache.root} is not the one measured; "
            "run the recipe again"
        )
    evaluation_digests = {measurement["evaluation_digest"] for measurement in measurements}
    samples_step = _samples_step(store, run, cache, evaluation_digests)
    handling = _sample_handling(row, store.steps(run), samples_step, cache)
    samples = Samples(cache.value_folder("samples", _key(samples_step)) / "evaluation")
    facts = gather_facts(store, row)
    return write_bundle(out, Build.read(build), samples, facts, handling, force=force)


def _measurements_of(
    row: ParetoRow, measurements: Sequence[MeasurementRow]
) -> list[MeasurementRow]:
    coordinates = (row["model"], row["scheme"], row["build"], row["device"])
    return [
        measurement
        for measurement in measurements
        if coordinates
        == (
            measurement["model"],
            measurement["scheme"],
            measurement["build"],
            measurement["device"],
        )
    ]


def _measured_build(store: Store, run: str, cache: Cache, deploy_step: str) -> Path:
    step = _find_step(store.steps(run), run, deploy_step)
    build = cache.get("compile", str(_recorded(step, "needs").get("build")))
    if build is None:
        raise _missing("build", run, cache)
    return build


def _find_step(steps: Sequence[StepRow], run: str, name: str) -> StepRow:
    for step in steps:
        if step["step"] == name:
            return step
    raise QpipeError(
        f"export: run {run} has no record of how {name} was made; run the recipe again"
    )


def _key(step: StepRow) -> str:
    if not step["key"]:
        raise QpipeError(f"export: the record of {step['step']} has no key; run the recipe again")
    return step["key"]


def _recorded(step: StepRow, field: str) -> dict[str, Any]:
    """Return a part of what the key of a step is made of."""
    value = (step["key_fields"] or {}).get(field)
    if not isinstance(value, dict):
        raise QpipeError(
            f"export: the record of {step['step']} has no {field}; run the recipe again"
        )
    return value


def _samples_step(store: Store, run: str, cache: Cache, digests: Collection[str | None]) -> StepRow:
    """Return the step of the samples that the row was measured on: models may have their own."""
    for step in store.steps(run):
        if step["kind"] != "samples":
            continue
        folder = cache.get("samples", _key(step))
        if folder and stage_results.sample_digests(folder)["evaluation"] in digests:
            return step
    raise _missing("samples", run, cache)


def _sample_handling(
    row: ParetoRow, steps: Sequence[StepRow], samples_step: StepRow, cache: Cache
) -> SampleHandling:
    """Return how the samples of a row were handled, in the first step that made predictions.

    Where no step has a postprocess, that is the first step that scored anything.
    """
    decoder = cache.value_folder("samples", _key(samples_step)) / stage_results.DECODER
    samples: NamedStage = {
        "kind": "samples",
        "name": samples_step["stage"],
        "options": _recorded(samples_step, "options"),
    }
    handling = SampleHandling(samples, decoder)
    for step in (step for step in steps if _is_of(row, step)):
        postprocess = next(iter(_stages_in(step, "postprocess")), None)
        metrics = _stages_in(step, "metric")
        if postprocess is None and (handling.metrics or not metrics):
            continue
        folder = cache.get("measure", _key(step))  # None where it has left, or was changed
        handling = SampleHandling(
            samples,
            decoder,
            postprocess,
            folder / POSTPROCESS if folder else None,
            metrics,
            first_index(folder) if folder else None,
        )
        if postprocess is not None:
            break
    return handling


def _stages_in(step: StepRow, kind: str) -> list[NamedStage]:
    """Return the stages of a kind that a step has as options."""
    stages: list[NamedStage] = []
    for value in _recorded(step, "options").values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and item.get("kind") == kind:
                stages.append(item)  # type: ignore[arg-type]
    return stages


def _is_of(row: ParetoRow, step: StepRow) -> bool:
    """Return whether a step measured a row, and succeeded."""
    coordinates = (step["model"], step["scheme"], step["build"], step["device"])
    is_of_row = coordinates == (row["model"], row["scheme"], row["build"], row["device"])
    return is_of_row and step["kind"] == "measure" and step["state"] in ("done", "cached")


def _missing(content: Literal["build", "samples"], run: str, cache: Cache) -> QpipeError:
    verb = "is" if content == "build" else "are"
    return QpipeError(
        f"export: the {content} of run {run} {verb} no longer in {cache.root}; run the recipe again"
    )


def _select_row(rows: Sequence[ParetoRow], selection: Selection) -> ParetoRow:
    """Return the one row that has the selected coordinates."""
    matching = list(rows)
    for name, value in selection.items():
        if value is None:
            continue
        valid_values = {row[name] for row in matching}
        matching = [row for row in matching if row[name] == value]
        if not matching:
            raise QpipeError(
                f"export: nothing was measured with {name} '{value}'; "
                f"{suggest(value, valid_values)}"
            )
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise QpipeError("export: nothing was measured in this run; give another one with --run")
    raise _ambiguous(matching, selection)


def _ambiguous(rows: Sequence[ParetoRow], selection: Selection) -> QpipeError:
    for name in selection:
        values = sorted({row[name] for row in rows})
        if len(values) > 1:
            return QpipeError(f"export: several rows match; give --{name}: {', '.join(values)}")
    return QpipeError(
        "export: several rows of a sweep match; export from a run of the recipe without the sweep"
    )
