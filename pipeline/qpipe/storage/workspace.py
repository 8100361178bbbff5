"""Where a workspace has its database, cache, runs and reports. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.errors import QpipeError, shown

if TYPE_CHECKING:
    from qpipe.storage.nights import NightStore
    from qpipe.storage.results import Store

HOME = Path(".qpipe")
DEFAULT_DB = HOME / "results.db"
DEFAULT_CACHE = HOME / "cache"


def run_folder(db: Path, run: str) -> Path:
    """Return the folder of a run whose results are in a database: beside it, by the run's id."""
    return db.parent / "runs" / run


def report_file(db: Path, run: str) -> Path:
    """Return where the report of a run lies by default: beside the database."""
    return db.parent / "reports" / f"{run}.html"


def open_results(db: Path) -> Store:
    """Open the database to read it; raise QpipeError where there is none: reading makes none."""
    from qpipe.storage.results import Store

    if db == DEFAULT_DB and not db.exists():
        raise no_run_yet(db)
    return Store(db, create=False)


def open_nights(db: Path) -> NightStore:
    """Open the database with its nights; raise QpipeError where there is none."""
    from qpipe.storage.nights import NightStore

    if db == DEFAULT_DB and not db.exists():
        raise no_run_yet(db)
    return NightStore(db, create=False)


def no_run_yet(db: Path) -> QpipeError:
    """Return the error for a database without any run."""
    return QpipeError(f"{shown(db)}: no run yet; start one with: qpipe run RECIPE")
