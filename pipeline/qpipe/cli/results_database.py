"""The database of results as commands read it, with messages for a user who has none yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpipe.cli.parameters import DEFAULT_DB
from qpipe.errors import QpipeError

if TYPE_CHECKING:
    from pathlib import Path

    from qpipe.storage.nights import NightStore
    from qpipe.storage.results import Store
    from qpipe.storage.rows import RunRow


def open_results(db: Path) -> Store:
    """Open the database to read it; raise QpipeError where there is none: reading makes none."""
    from qpipe.storage.results import Store

    if db == DEFAULT_DB and not db.exists():
        raise _no_run_yet(db)
    return Store(db, create=False)


def open_nights(db: Path) -> NightStore:
    """Open the database with its nights; raise QpipeError where there is none."""
    from qpipe.storage.nights import NightStore

    if db == DEFAULT_DB and not db.exists():
        raise _no_run_yet(db)
    return NightStore(db, create=False)


def find_run(store: Store, run: str | None) -> RunRow:
    """Return a run by id or tag, or the newest; raise QpipeError where there is none."""
    if run:
        return store.run(run)
    newest = store.latest_run()
    if newest is None:
        raise _no_run_yet(store.path)
    return newest


def _no_run_yet(db: Path) -> QpipeError:
    from qpipe.recipe.yaml_document import shown

    return QpipeError(f"{shown(db)}: no run yet; start one with: qpipe run RECIPE")
