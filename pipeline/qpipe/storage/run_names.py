"""The names of a database's runs, read without what a Store needs: completion has to be quick."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of what is safe to offer in a shell
MOST_NAMES = 200
RUNS = (
    "SELECT id FROM (SELECT id FROM runs ORDER BY started DESC LIMIT :most) "
    "UNION SELECT tag FROM tags LIMIT :most"
)
SCHEMES = "SELECT DISTINCT scheme FROM measurements LIMIT :most"


def run_names(db: Path) -> list[str]:
    """Return ids and tags of runs; none where the file is missing or no database of qpipe."""
    return _read_names(db, RUNS)


def scheme_names(db: Path) -> list[str]:
    """Return the schemes that were measured; none where there is no such database."""
    return _read_names(db, SCHEMES)


def _read_names(db: Path, query: str) -> list[str]:
    if not db.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, {"most": MOST_NAMES}).fetchall()
    except sqlite3.Error:
        return []
    return [name for (name,) in rows if isinstance(name, str) and NAME.fullmatch(name)]
