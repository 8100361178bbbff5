"""What the networks of a recipe are fed: a page with pictures, statistics and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.engine.events import Listener, Notify
from qpipe.engine.request import ResolvedRequest
from qpipe.engine.run import prepare_plan
from qpipe.report.model_samples import collect_samples
from qpipe.report.samples_page import (
    NUMBER_COLUMNS,
    STATISTICS_COLUMNS,
    statistics_cells,
    summary_lines,
)
from qpipe.report.samples_report import PAGE, write_samples_report
from qpipe.report.text_table import TextTable
from qpipe.storage.results import Store
from qpipe.storage.workspace import HOME

if TYPE_CHECKING:
    from qpipe.report.report_types import ModelReport, SamplesReport


@dataclass(frozen=True)
class FedSamples:
    """A page on what the networks of a recipe are fed, beside its pictures in a folder."""

    folder: Path
    content: SamplesReport  # of samples.json in the folder

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / PAGE

    @property
    def tables(self) -> list[TextTable]:
        """The statistics of the inputs of each network, with warnings below."""
        models = self.content["models"]
        return [_table(model, is_only_one=len(models) == 1) for model in models]

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe samples --json` prints it."""
        return {"folder": str(self.folder), **self.content}


def write_fed_samples(
    resolved: ResolvedRequest,
    store: Store,
    folder: Path | None,
    count: int,
    listen: Listener,
    notify: Notify,
) -> FedSamples:
    """Write the page of a recipe on `count` samples of each part."""
    plan = prepare_plan(resolved, store, listen, notify, with_scoring=False)
    with resolved.cache.protect(plan.results):
        models = [collect_samples(resolved, plan, model, count) for model in plan.imported]
    name = resolved.recipe.name
    chosen = folder or HOME / "samples" / name
    return FedSamples(chosen, write_samples_report(chosen, name, models))


def _table(model: ModelReport, *, is_only_one: bool) -> TextTable:
    title = "" if is_only_one else model["model"]
    rows: Sequence[Sequence[str]] = [statistics_cells(row) for row in model["statistics"]]
    warnings = [f"warning: {line}" for line in model["warnings"]]
    lines = [*summary_lines(model), *warnings]
    return TextTable(title, STATISTICS_COLUMNS, rows, NUMBER_COLUMNS, lines=lines)
