"""From a row of a run to the folder that is shipped: finds its build and samples where the run left them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qpipe.compare.pareto import pareto_rows
from qpipe.engine import cache_keys, stage_results
from qpipe.errors import QpipeError, suggest
from qpipe.export.bundle import gather_facts, write_bundle
from qpipe.samples.store import Samples
from qpipe.storage.cache import Cache
from qpipe.storage.results import COORDINATES, Store
from qpipe.types import Build

Row = dict[str, Any]


def hand_over(
    store: Store,
    run: str,
    wanted: Mapping[str, str | None],
    cache: Cache,
    out: Path,
    *,
    force: bool = False,
) -> Row:
    """Write the bundle of the one row that has these coordinates, and give its manifest.

    QpipeError where no row has them or several do, where the cache does not hold the measured build any more, or where
    the folder holds something else, unless by force.
    """
    row = _one(pareto_rows(store, run), wanted)
    name = f"{row['model']}/{row['scheme']}/{row['build']}"
    deploy = _step(store, run, f"{name}@{row['device']}")
    build = cache.get("compile", deploy["key_fields"]["needs"]["build"])
    if build is None:
        raise _gone("build", run, cache)
    own = [each for each in store.measurements(run) if all(each[c] == row[c] for c in COORDINATES)]
    if {each["build_digest"] for each in own} != {cache_keys.digest(build)}:
        raise QpipeError(
            f"export: the build of {name} in {cache.root} is not the one measured; run the recipe again"
        )
    samples = _samples(store, run, cache, {each["evaluation_digest"] for each in own})
    return write_bundle(out, Build.read(build), samples, gather_facts(store, row), force=force)


def _step(store: Store, run: str, name: str) -> Row:
    found = next((step for step in store.steps(run) if step["step"] == name), None)
    if found is None:
        raise QpipeError(
            f"export: run {run} kept nothing of how {name} was made; run the recipe again"
        )
    return found


def _samples(store: Store, run: str, cache: Cache, digests: Collection[str]) -> Samples:
    """What the row was measured on: models may have samples of their own."""
    for step in store.steps(run):
        folder = cache.get("samples", step["key"]) if step["kind"] == "samples" else None
        if folder and stage_results.sample_digests(folder)["evaluation"] in digests:
            return Samples(folder / "evaluation")
    raise _gone("samples", run, cache)


def _one(rows: list[Row], wanted: Mapping[str, str | None]) -> Row:
    left = rows
    for name, value in wanted.items():
        if value is None:
            continue
        known = sorted({row[name] for row in left})
        left = [row for row in left if row[name] == value]
        if not left:
            raise QpipeError(
                f"export: nothing was measured with {name} '{value}'; {suggest(value, known)}"
            )
    if len(left) == 1:
        return left[0]
    if not left:
        raise QpipeError("export: nothing was measured in this run; give another one with --run")
    for name in wanted:
        values = sorted({row[name] for row in left})
        if len(values) > 1:
            raise QpipeError(f"export: several rows fit; give --{name}: {', '.join(values)}")
    raise QpipeError(
        "export: several rows of a sweep fit; export from a run of the recipe without the sweep"
    )


def _gone(what: str, run: str, cache: Cache) -> QpipeError:
    return QpipeError(
        f"export: the {what} of run {run} is not in {cache.root} any more; run the recipe again"
    )
