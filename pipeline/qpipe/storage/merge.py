"""The union of databases: what was measured in several places, in one file."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import QpipeError
from qpipe.storage.results import BUSY_S, COORDINATES, JSON, Store

Connection = sqlite3.Connection
KINDS = {"TEXT": str, "REAL": float, "INTEGER": int}  # of SQLite's columns
LISTS = ("ties",)  # of the columns of JSON, all else of which are maps
NEEDED = {  # by table, what is never null
    "runs": {"id", "started", "state"},
    "steps": {"run", "step", "state"},
    "attempts": {"run", "step", "attempt"},
    "rounds": {"measurement", "round"},
    "run_devices": {"run", "device", "capabilities"},
    "measurements": {"id", "run", "extra", "metric", "value", *COORDINATES},
    "verdicts": {"run", "extra", "objectives", *COORDINATES},
}


@dataclass
class Merged:
    """What came out of one file."""

    file: Path
    added: int = 0  # runs that were not here
    replaced: int = 0  # runs that differ, taken from that file
    kept: int = 0  # runs that differ, left as they are here
    same: int = 0
    measurements: int = 0  # of the runs added and replaced
    devices: int = 0  # that were not known here
    told: list[str] = field(default_factory=list)  # a line for each run that differs


def merge(into: Path, others: Iterable[Path]) -> list[Merged]:
    """Bring the runs of other databases into one, all or none; the others stay as they are.

    Of a run that differs, one side's is taken as a whole: the one that is done, else the one that was worked on last.
    Tags are united; a device that is known here keeps its last check. What became of devices (health, power) stays with
    its file: a board of the same name elsewhere may be another one. QpipeError for a file that is no database of
    qpipe, or that a newer qpipe wrote.
    """
    paths = list(others)
    for path in paths:
        if not path.is_file():
            raise QpipeError(f"{path}: there is no such database; give one that qpipe wrote")
        if into.exists() and path.samefile(into):
            raise QpipeError(f"{path}: that is the database itself; give another one")
    with tempfile.TemporaryDirectory() as folder:
        copies = [_copy(path, Path(folder) / f"{number}.db") for number, path in enumerate(paths)]
        Store(into).close()  # there, and up to date
        with _writing(into) as here:
            for path, copy in zip(paths, copies, strict=True):
                _check(here, path, copy)
            return [_union(here, path, copy) for path, copy in zip(paths, copies, strict=True)]


def _copy(path: Path, copy: Path) -> Path:
    """A copy with the newest tables. Without a -wal nobody has the file open, and then nothing is left beside it."""
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        with (
            closing(
                sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=BUSY_S)
            ) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.execute("SELECT id FROM runs LIMIT 1")
            source.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'qpipe'")
            source.backup(target)
    except sqlite3.Error as error:
        raise QpipeError(f"{path}: not a database of qpipe: {error}; give another file") from error
    try:
        Store(copy).close()
    except QpipeError as error:
        raise QpipeError(str(error).replace(str(copy), str(path), 1)) from error
    return copy


def _check(here: Connection, path: Path, copy: Path) -> None:
    """QpipeError for rows that qpipe does not write: brought in, they would break whatever reads them."""
    try:
        with closing(sqlite3.connect(copy)) as there:
            wrong = _wrong(here, there)
    except sqlite3.Error as error:
        wrong = str(error)
    if wrong:
        raise QpipeError(f"{path}: not a database of qpipe: {wrong}; give another file")


def _wrong(here: Connection, there: Connection) -> str | None:
    for table in (*_tables(here), "tags", "devices"):
        columns = here.execute("SELECT name, type FROM pragma_table_info(?)", [table]).fetchall()
        missing = {name for name, _ in columns} - set(_columns(there, table))
        if missing:
            return f"{table} has no {min(missing)}"
        names = [name for name, _ in columns]
        for row in there.execute(f'SELECT {_listed(names)} FROM "{table}"'):  # noqa: S608  (names of our own tables)
            for (name, kind), value in zip(columns, row, strict=True):
                if (value is None and name in NEEDED.get(table, ())) or not _fits(
                    name, kind, value
                ):
                    return f"{table}.{name} is {value!r}"
    loose = there.execute("PRAGMA foreign_key_check").fetchone()
    return f"a row of {loose[0]} belongs to nothing" if loose else None


def _fits(name: str, kind: str, value: Any) -> bool:
    if value is None or name not in JSON:
        return value is None or isinstance(value, KINDS[kind])
    with suppress(ValueError, TypeError):
        return isinstance(json.loads(value), list if name in LISTS else dict)
    return False


@contextmanager
def _writing(path: Path) -> Iterator[Connection]:
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as here:
        here.execute("PRAGMA foreign_keys=on")
        try:
            here.execute("BEGIN IMMEDIATE")
            yield here
            here.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise QpipeError(
                f"{path}: {error}; free space, or let the other process end"
            ) from error


def _union(here: Connection, path: Path, copy: Path) -> Merged:
    merged = Merged(path)
    with closing(sqlite3.connect(copy)) as there:
        for (run,) in there.execute("SELECT id FROM runs ORDER BY started, id"):
            _merge_run(here, there, run, merged)
        merged.devices = _insert_new(here, there, "devices")
        _insert_new(here, there, "tags")
    return merged


def _merge_run(here: Connection, there: Connection, run: str, merged: Merged) -> None:
    tables = _tables(here)
    theirs = {
        table: _rows(there, table, _columns(here, table), whose, run)
        for table, whose in tables.items()
    }
    if not here.execute("SELECT 1 FROM runs WHERE id = ?", [run]).fetchone():
        merged.added += 1
    else:
        own = {
            table: _rows(here, table, _columns(here, table), whose, run)
            for table, whose in tables.items()
        }
        if all(set(own[table]) == set(theirs[table]) for table in tables):
            merged.same += 1
            return
        if not _prefer(here, there, run, merged):
            merged.kept += 1
            return
        merged.replaced += 1
        here.execute("PRAGMA defer_foreign_keys=on")  # its tags stay meanwhile
        for table, whose in reversed(tables.items()):
            here.execute(f'DELETE FROM "{table}" WHERE {whose}', [run])  # noqa: S608  (names of our own tables)
    for table, rows in theirs.items():
        _insert(here, table, _columns(here, table), rows)
    merged.measurements += len(theirs["measurements"])


def _prefer(here: Connection, there: Connection, run: str, merged: Merged) -> bool:
    """Whether the other side's is the one to have; says which, and why."""
    own = _standing(here, run)
    other = _standing(there, run)
    taken = other > own
    choice = (
        f"taken from {merged.file}" if taken else f"kept as it is here, not as in {merged.file}"
    )
    words = [f"{state}, worked on until {time[:19]}" for _, time, state in (other, own)]
    merged.told.append(f"run {run}: {choice}: there {words[0]}; here {words[1]}")
    return taken


def _standing(db: Connection, run: str) -> tuple[bool, str, str]:
    """What decides which of two is the one to have: whether it is done, and when something last happened to it."""
    ((state, time),) = db.execute(
        """
        SELECT state, max(coalesce(finished, ''), started,
          coalesce((SELECT max(max(coalesce(finished, ''), coalesce(started, ''))) FROM steps WHERE run = id), ''),
          coalesce((SELECT max(measured_at) FROM measurements WHERE run = runs.id), ''))
        FROM runs WHERE id = ?
        """,
        [run],
    )
    return state == "done", time, state


# ---- rows, whatever columns later migrations add


def _tables(db: Connection) -> dict[str, str]:
    """The tables that hold what belongs to a run, each after those it refers to, with what says whose a row is."""
    of = """
        SELECT tables.name FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns
        WHERE tables.type = 'table' AND columns.name = ? AND tables.name <> 'tags' ORDER BY tables.rowid
    """
    runs = {name: "run = ?" for (name,) in db.execute(of, ["run"])}
    measured = "measurement IN (SELECT id FROM measurements WHERE run = ?)"
    return {
        "runs": "id = ?",
        **runs,
        **{name: measured for (name,) in db.execute(of, ["measurement"])},
    }


def _columns(db: Connection, table: str) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", [table])]


def _rows(
    db: Connection, table: str, columns: list[str], whose: str, run: str
) -> list[tuple[Any, ...]]:
    order = (
        "" if whose.startswith("measurement") else "ORDER BY rowid"
    )  # steps stay in the order of the plan
    query = f'SELECT {_listed(columns)} FROM "{table}" WHERE {whose} {order}'  # noqa: S608  (names of our own tables)
    return db.execute(query, [run]).fetchall()


def _insert_new(here: Connection, there: Connection, table: str) -> int:
    """Insert the rows whose key is not there yet; how many those were."""
    columns = _columns(here, table)
    before = here.total_changes
    rows = there.execute(f'SELECT {_listed(columns)} FROM "{table}"')  # noqa: S608  (names of our own tables)
    _insert(here, table, columns, rows, "OR IGNORE")
    return here.total_changes - before


def _insert(
    db: Connection, table: str, columns: list[str], rows: Iterable[tuple[Any, ...]], how: str = ""
) -> None:
    marks = ", ".join("?" for _ in columns)
    into = f'"{table}" ({_listed(columns)})'
    db.executemany(f"INSERT {how} INTO {into} VALUES ({marks})", rows)  # noqa: S608  (names of our own tables)


def _listed(columns: list[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
