"""The file of a run's report: where it lies, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.cli.parameters import DEFAULT_CACHE, DEFAULT_DB
from qpipe.recipe.yaml_document import shown
from qpipe.report.chart_files import PictureFormat, write_charts
from qpipe.report.comparison_report import comparison_page, read_two_runs
from qpipe.report.latex_table import latex_tables
from qpipe.report.run_content import read_content
from qpipe.report.run_report import report_page

if TYPE_CHECKING:
    from qpipe.report.run_results import RunResults
    from qpipe.storage.results import Store
    from qpipe.storage.rows import RunRow


def report_file(db: Path, run: str) -> Path:
    """Return where the report of a run lies by default: beside the database."""
    return db.parent / "reports" / f"{run}.html"


def write_report(
    store: Store,
    run: str,
    file: Path,
    *,
    results: RunResults | None = None,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Write the report of a run."""
    options = ["--run", run, *path_option("--db", store.path, DEFAULT_DB)]
    options += path_option("--cache", cache, DEFAULT_CACHE)
    _write_text(file, report_page(read_content(store, run, options, results=results, cache=cache)))


def write_comparison(store: Store, before: RunRow, after: RunRow, file: Path) -> None:
    """Write the report of two runs."""
    _write_text(file, comparison_page(read_two_runs(store, before, after)))


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Exports:
    """Where to write charts as pictures, and tables of LaTeX; None for not at all."""

    png: Path | None = None
    svg: Path | None = None
    pdf: Path | None = None
    latex: Path | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether there is anything to write."""
        return any((self.png, self.svg, self.pdf, self.latex))

    def write(self, store: Store, run: str) -> list[Path]:
        """Write them; return the files."""
        if not self.are_wanted:
            return []
        content = read_content(store, run)
        folders: dict[PictureFormat, Path | None] = {
            "png": self.png,
            "svg": self.svg,
            "pdf": self.pdf,
        }
        files: list[Path] = []
        for kind, folder in folders.items():
            if folder is not None:
                files += write_charts(content, folder, kind)
        if self.latex is not None:
            _write_text(self.latex, latex_tables(content))
            files.append(self.latex)
        return files


def path_option(option: str, path: Path, default: Path) -> list[str]:
    """Return an option and its path, as a command needs it; nothing for the default."""
    return [] if path == default else [option, shown(path)]
