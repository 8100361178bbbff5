"""From a row of a run to the folder that is shipped: finds its build and samples where the run left them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpipe.cache import Cache
from qpipe.compare.export import gather_facts, write_bundle
from qpipe.compare.pareto import pareto_rows
from qpipe.errors import QpipeError, suggest
from qpipe.samples import Samples
from qpipe.store import Store
from qpipe.types import Build

Row = dict[str, Any]


def hand_over(store: Store, run: str, wanted: Mapping[str, str | None], cache: Cache, out: Path) -> Row:
    """Write the bundle of the one row that has these coordinates, and give its manifest.

    QpipeError where no row has them or several do, or where the cache does not hold the build any more.
    """
    row = _one(pareto_rows(store, run), wanted)
    deploy = f"{row['model']}/{row['scheme']}/{row['build']}@{row['device']}"
    steps = {step["step"]: step for step in store.steps(run)}
    build = _cached(cache, "compile", steps[deploy]["key_fields"]["needs"]["build"], run)
    samples = _cached(cache, "samples", next(s["key"] for s in steps.values() if s["kind"] == "samples"), run)
    return write_bundle(out, Build.read(build), Samples(samples / "evaluation"), gather_facts(store, row))


def _one(rows: list[Row], wanted: Mapping[str, str | None]) -> Row:
    left = rows
    for name, value in wanted.items():
        if value is None:
            continue
        known = sorted({row[name] for row in left})
        left = [row for row in left if row[name] == value]
        if not left:
            raise QpipeError(f"export: nothing was measured with {name} '{value}'; {suggest(value, known)}")
    if len(left) == 1:
        return left[0]
    if not left:
        raise QpipeError("export: nothing was measured in this run; give another one with --run")
    name = next(name for name in wanted if len({row[name] for row in left}) > 1)
    raise QpipeError(f"export: several rows fit; give --{name}: {', '.join(sorted({row[name] for row in left}))}")


def _cached(cache: Cache, kind: str, key: str, run: str) -> Path:
    folder = cache.get(kind, key)
    if folder is None:
        what = "build" if kind == "compile" else "samples"
        raise QpipeError(f"export: the {what} of run {run} is not in {cache.root} any more; run the recipe again")
    return folder
