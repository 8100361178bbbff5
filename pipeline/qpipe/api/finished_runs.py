"""Runs of a database: their steps, what they measured, and what is made of that.

What is expensive to import is imported where it is used: a list of runs needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.errors import QpipeError, RecipeError, shown, unknown_step
from qpipe.storage.workspace import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    no_run_yet,
    open_results,
    report_file,
    run_folder,
)

if TYPE_CHECKING:
    from qpipe.api.result_rows import Results
    from qpipe.api.run_comparison import Comparison
    from qpipe.report.chart_files import PictureFormat
    from qpipe.report.run_content import RunContent
    from qpipe.report.text_table import TextTable
    from qpipe.storage.results import Store
    from qpipe.storage.rows import AttemptRow, MeasurementRow, RunRow, RunState, StepRow
    from qpipe.types import Capabilities, Limits

NUMBER_COLUMNS = ("of", "metric", "value", "95 %", "unit", "n")
MEASURED_FIELDS = ("metric", "value", "low", "high", "unit", "n", "attempt", "emulated")


@dataclass(frozen=True)
class RunEnding:
    """How a run ended that was carried out just now."""

    seconds: float
    steps: int
    cached: int  # of the steps
    unreachable: Mapping[str, str]  # device -> why it was left out
    bad: Mapping[str, str]  # device -> why nothing more was done there


@dataclass(frozen=True)
class RunStep:
    """A step of a run: its row in the table `steps`, each attempt at it, what it measured."""

    record: StepRow
    attempts: Sequence[AttemptRow]
    measurements: Sequence[MeasurementRow]
    log: str

    @property
    def numbers(self) -> TextTable:
        """What it measured as text, with intervals."""
        from qpipe.compare.formatting import metric_name
        from qpipe.report.text_table import TextTable

        rows = []
        for row in self.measurements:
            unit = row["unit"] or ""
            interval = ""
            if row["low"] is not None and row["high"] is not None:
                interval = f"{row['low']:.6g} to {row['high']:.6g}"
            metric = metric_name(row["metric"], unit, row["emulated"])
            value = f"{row['value']:.6g}"
            rows.append((_build_name(row), metric, value, interval, unit, str(row["n"])))
        return TextTable("measured:", NUMBER_COLUMNS, rows, right=("value", "n"))

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe show STEP --json` prints it."""
        numbers = []
        for row in self.measurements:
            values: dict[str, Any] = {**row}
            fields = {name: values[name] for name in MEASURED_FIELDS}
            numbers.append({"of": _build_name(row), **fields})
        return {
            **self.record,
            "log_text": self.log,
            "tries": self.attempts,
            "measurements": numbers,
        }


@dataclass(frozen=True)
class Run:
    """A run of a recipe; what it did and measured is read from its database when asked."""

    id: str
    recipe: str
    state: RunState
    db: Path
    tags: Sequence[str]
    failures: Mapping[str, int]  # type of failure -> steps that failed so
    record: RunRow = field(repr=False)  # its row in the table `runs`
    ending: RunEnding | None = None  # of a run that was carried out by this program

    @property
    def is_smoke(self) -> bool:
        """Whether it had a handful of samples, whose numbers do not count."""
        from qpipe.storage.rows import is_smoke_run

        return is_smoke_run(self.record)

    # ---- what it did

    @property
    def steps(self) -> list[StepRow]:
        """Its steps, as rows of the table `steps`."""
        with open_results(self.db) as store:
            return store.steps(self.id)

    def step(self, name: str) -> RunStep:
        """Return one step, with attempts and log; raise QpipeError where it has no such step."""
        with open_results(self.db) as store:
            steps = {row["step"]: row for row in store.steps(self.id)}
            if name not in steps:
                where = f"run {self.id}"
                raise unknown_step(name, steps, where=where, list_command="qpipe show")
            attempts = store.attempts(self.id, name)
            measured = [row for row in store.measurements(self.id) if row["step"] == name]
        return RunStep(steps[name], attempts, measured, self.log(name))

    def log(self, step: str) -> str:
        """Return what a step has logged so far."""
        from qpipe.engine.step_log import read_log

        return read_log(run_folder(self.db, self.id), step)

    @property
    def devices(self) -> dict[str, Capabilities]:
        """What each device reported of itself."""
        with open_results(self.db) as store:
            return store.capabilities(self.id)

    @property
    def unreachable(self) -> dict[str, str]:
        """Why each device was left out that could not be reached."""
        with open_results(self.db) as store:
            return store.unreachable(self.id)

    # ---- what it measured

    @property
    def results(self) -> Results:
        """What it measured, with verdicts, a row for each build on each device."""
        return self.judged()

    def judged(
        self, *, limits: Limits | None = None, keep: float | None = None, knee: bool = False
    ) -> Results:
        """Return what it measured, judged otherwise than the run was asked to.

        `limits` are such as {"latency_ms": ("<=", 5)}, `keep` is what a scheme to ship may lose, in
        points; `knee` recommends what is nearest to the best of each objective instead.
        """
        from qpipe.api.result_rows import Results
        from qpipe.report.run_results import read_results

        with open_results(self.db) as store:
            return Results(read_results(store, self.id, limits, keep, is_knee=knee))

    def to_dict(self, results: Results | None = None) -> dict[str, Any]:
        """Return the run as `qpipe run --json` prints it: its schema has a version."""
        from qpipe.report.run_document import run_document

        judged = results or self.results
        with open_results(self.db) as store:
            return {**run_document(store, judged._found)}

    def compare(self, before: Run) -> Comparison:
        """Compare it row by row with an earlier run of the same database."""
        from qpipe.api.run_comparison import Comparison
        from qpipe.report.two_runs import read_two_runs

        if before.db != self.db:
            raise QpipeError(
                f"{before.db}: run {before.id} is not in {self.db}; "
                f"merge them with: qpipe db merge {before.db} --db {self.db}"
            )
        with open_results(self.db) as store:
            return Comparison(self.db, read_two_runs(store, before.record, self.record))

    # ---- what is made of it

    def report(
        self,
        path: Path | str | None = None,
        *,
        results: Results | None = None,
        cache: Path = DEFAULT_CACHE,
    ) -> Path:
        """Write the report of the run as one HTML file, and return its path.

        By default it lies beside the database. `results` are those that it shows, judged otherwise
        than the run was asked to; in `cache` lie the samples that it shows.
        """
        from qpipe.report.run_content import read_content
        from qpipe.report.run_report import report_page

        options = ["--run", self.id, *path_option("--db", self.db, DEFAULT_DB)]
        options += path_option("--cache", cache, DEFAULT_CACHE)
        found = results._found if results else None
        file = self.report_file if path is None else Path(path)
        with open_results(self.db) as store:
            content = read_content(store, self.id, options, results=found, cache=cache)
        return write_text(file, report_page(content))

    @property
    def report_file(self) -> Path:
        """Where its report lies by default."""
        return report_file(self.db, self.id)

    def charts(self, folder: Path | str, picture_format: PictureFormat = "svg") -> list[Path]:
        """Write its charts as pictures into a folder; return the files."""
        from qpipe.report.chart_files import write_charts

        return write_charts(self._content(), Path(folder), picture_format)

    def latex(self, path: Path | str) -> Path:
        """Write its tables in LaTeX, with the rules of booktabs; return the path."""
        from qpipe.report.latex_table import latex_tables

        return write_text(Path(path), latex_tables(self._content()))

    def _content(self) -> RunContent:
        from qpipe.report.run_content import read_content

        with open_results(self.db) as store:
            return read_content(store, self.id)

    def export(
        self,
        out: Path | str,
        *,
        device: str,
        scheme: str,
        model: str | None = None,
        build: str | None = None,
        force: bool = False,
        cache: Path = DEFAULT_CACHE,
    ) -> dict[str, Any]:
        """Write the file of a row with everything needed to run it elsewhere; return its manifest.

        `model` and `build` name the row where there are several; a folder that holds other files
        needs `force`. Raise QpipeError where the cache no longer holds what was measured.
        """
        from qpipe.export.from_run import Selection, hand_over
        from qpipe.storage.cache import Cache

        row: Selection = {"device": device, "scheme": scheme, "model": model, "build": build}
        with open_results(self.db) as store, ExitStack() as protection:
            steps = Cache(cache)
            if cache.is_dir():
                keys = [(step["kind"], step["key"]) for step in store.steps(self.id) if step["key"]]
                protection.enter_context(steps.protect(keys))
            return {**hand_over(store, self.id, row, steps, Path(out), force=force)}

    def tag(self, *tags: str) -> Run:
        """Give it tags, names that stand for its id; return it with them."""
        check_tags(tags)
        with open_results(self.db) as store:
            store.tag(self.id, tags)
        return find_run(self.id, db=self.db)

    def untag(self, *tags: str) -> Run:
        """Remove tags; return it without them."""
        with open_results(self.db) as store:
            store.untag(self.id, tags)
        return find_run(self.id, db=self.db)


def runs(db: Path | str = DEFAULT_DB, *, tag: str | None = None) -> list[Run]:
    """Return the runs of a database, or those with a tag, newest first.

    Raise QpipeError where there is no database.
    """
    path = Path(db)
    with open_results(path) as store:
        return as_runs(store, store.runs(tag=tag))


def find_run(name: str | None = None, *, db: Path | str = DEFAULT_DB) -> Run:
    """Return a run by its id, the beginning of its id, or a tag; by default the newest.

    Raise QpipeError where there is none.
    """
    path = Path(db)
    with open_results(path) as store:
        row = store.run(name) if name else store.latest_run()
        if row is None:
            raise no_run_yet(path)
        (run,) = as_runs(store, [row])
    return run


def as_runs(store: Store, rows: Iterable[RunRow], ending: RunEnding | None = None) -> list[Run]:
    """Return rows of a database as runs."""
    tags = store.tags()
    failures = store.failures()
    found = []
    for row in rows:
        run = row["id"]
        of_run = (store.path, tags.get(run, []), failures.get(run, {}), row, ending)
        found.append(Run(run, row["recipe"], row["state"], *of_run))
    return found


def _build_name(row: MeasurementRow) -> str:
    return "/".join((row["model"], row["scheme"], row["build"]))


def check_tags(tags: Iterable[str]) -> None:
    """Raise RecipeError where one of these cannot be a tag."""
    from qpipe.recipe.yaml_document import NAME

    for tag in tags:
        if not NAME.fullmatch(tag):
            raise RecipeError(f"tag {tag!r}: use letters, digits, '.', '_' and '-'")


def path_option(option: str, path: Path, default: Path) -> list[str]:
    """Return an option and its path, as a command needs it; nothing for the default."""
    return [] if path == default else [option, shown(path)]


def write_text(file: Path, text: str) -> Path:
    """Write a file, and the folder that it lies in; return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
