"""The union of databases: the runs of several files, copied into one by SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from qpipe.errors import QpipeError
from qpipe.storage.database import (
    APPLIED_MIGRATIONS,
    BUSY_TIMEOUT_S,
    MIGRATION_SET,
    cannot_write,
    check_migrations,
    check_sqlite,
    not_of_qpipe,
)
from qpipe.storage.migrations import MIGRATIONS
from qpipe.storage.results import Store

Connection = sqlite3.Connection

OF_RUN = "run = :run"
OF_ITS_MEASUREMENTS = "measurement IN (SELECT id FROM {schema}.measurements WHERE run = :run)"
# the tables that hold what belongs to a run, each after those it refers to, and whose its rows are
RUN_TABLES = {
    "runs": "id = :run",
    "run_devices": OF_RUN,
    "unreachable_devices": OF_RUN,
    "steps": OF_RUN,
    "attempts": OF_RUN,
    "training_curves": OF_RUN,
    "measurements": OF_RUN,
    "values": OF_ITS_MEASUREMENTS,
    "rounds": OF_ITS_MEASUREMENTS,
    "verdicts": OF_RUN,
}
# what is deleted of a run that is replaced; all else goes with its owners
REPLACED_TABLES = ("run_devices", "unreachable_devices", "steps", "measurements", "verdicts")
# tables of later migrations: a file of an earlier qpipe has none, which says what an empty one says
LATER_TABLES = {"unreachable_devices": "reports", "training_curves": "training"}
# verdicts follow from the rest, and whoever reads an unfinished run stores some
COMPARED_TABLES = tuple(name for name in RUN_TABLES if name != "verdicts")
SHARED_TABLES = ("devices", "tags")
# values are the bulk of a file, and their only text is the id of a measurement
TABLES_WITH_TEXT = tuple(name for name in (*RUN_TABLES, *SHARED_TABLES) if name != "values")


@dataclass
class Merged:
    """What a file brought in."""

    file: Path
    added: int = 0  # runs that were not in the database
    replaced: int = 0  # runs that differ, taken from the file
    kept: int = 0  # runs that differ, left as they were
    same: int = 0
    measurements: int = 0  # of the runs added and replaced
    devices: int = 0  # that were not in the database
    told: list[str] = field(default_factory=list)  # a line for each run that differs


class _Source(NamedTuple):
    """A file, and the name of its schema while it is attached."""

    file: Path
    schema: str


def merge(into: Path, others: Iterable[Path]) -> list[Merged]:
    """Copy the runs of other databases into one, all or none; the others are only read.

    Where both have a run and it differs, that of one side is taken as a whole: the one that is
    done, else the one that was worked on last. Tags are united; a device that both have keeps its
    last check. The events and leases of devices stay with their file, as a board of the same
    name elsewhere may be another one. Raise QpipeError for a file that this qpipe cannot read.
    """
    files = list(others)
    for file in files:
        _check_file(file, into)
    check_sqlite()
    _check_number(files)
    for file in files:
        _check_content(file)
    Store(into).close()  # creates it, or brings it up to date
    with closing(_connect(into.resolve().as_uri())) as db:
        sources = [_attach(db, file, f"other{number}") for number, file in enumerate(files)]
        with _transaction(db, into):
            return [_merge_source(db, source) for source in sources]


def _check_file(file: Path, into: Path) -> None:
    if not file.is_file():
        raise QpipeError(f"{file}: there is no such database; give one that qpipe wrote")
    if into.exists() and file.samefile(into):
        raise QpipeError(f"{file}: that is the database itself; give another one")


def _connect(uri: str) -> Connection:
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA foreign_keys=ON")
    return db


def _check_number(files: Sequence[Path]) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        most = db.getlimit(sqlite3.SQLITE_LIMIT_ATTACHED)
    if len(files) > most:
        raise QpipeError(
            f"{len(files)} files at once are too many for SQLite; merge at most {most} at a time"
        )


def _attach(db: Connection, file: Path, schema: str) -> _Source:
    """Attach a file, which is only read."""
    try:
        db.execute(f"ATTACH ? AS {schema}", [_read_only_uri(file)])
    except sqlite3.Error as error:
        raise not_of_qpipe(file, error) from error
    return _Source(file, schema)


def _read_only_uri(file: Path) -> str:
    # without a -wal nobody has the file open; then it is read as immutable, which writes no -shm
    is_open = file.with_name(f"{file.name}-wal").exists()
    mode = "mode=ro" if is_open else "immutable=1"
    return f"{file.resolve().as_uri()}?{mode}"


# ---- whether a file can be merged


def _check_content(file: Path) -> None:
    """Check a file against the tables of an empty database, before anything is written."""
    with closing(_connect(":memory:")) as db:
        for _, sql in MIGRATIONS:
            db.executescript(sql)
        _check_source(db, _attach(db, file, "other"))


def _check_source(db: Connection, source: _Source) -> None:
    """Raise QpipeError where a file lacks a table or a column, or its text is not text.

    Everything else is checked by the constraints of the tables that the rows are copied into.
    """
    try:
        check_migrations(source.file, _applied_migrations(db, source))
        for table in (*RUN_TABLES, *SHARED_TABLES):
            if not _is_left_out(db, source, table):
                _check_table(db, source, table)
        for table in TABLES_WITH_TEXT:
            if not _is_left_out(db, source, table):
                _check_text(db, source, table)
    except sqlite3.Error as error:
        raise not_of_qpipe(source.file, error) from error


def _applied_migrations(db: Connection, source: _Source) -> set[str]:
    if not _is_table(db, source, "_sqlite_migrations"):
        return set()
    query = APPLIED_MIGRATIONS.format(schema=source.schema)
    return {str(name) for (name,) in db.execute(query, [MIGRATION_SET])}


def _is_table(db: Connection, source: _Source, table: str) -> bool:
    """Return whether a name is that of a plain table, neither a view nor a virtual table."""
    query = "SELECT type FROM pragma_table_list WHERE schema = ? AND name = ?"
    types = [type_ for (type_,) in db.execute(query, [source.schema, table])]
    return types == ["table"]


def _is_left_out(db: Connection, source: _Source, table: str) -> bool:
    """Return whether a file is of a qpipe that did not have the table yet."""
    return table in LATER_TABLES and LATER_TABLES[table] not in _applied_migrations(db, source)


def _check_table(db: Connection, source: _Source, table: str) -> None:
    if not _is_table(db, source, table):
        raise not_of_qpipe(source.file, f"it has no table {table}")
    missing_columns = set(_columns(db, "main", table)) - set(_columns(db, source.schema, table))
    if missing_columns:
        raise not_of_qpipe(source.file, f"{table} has no {min(missing_columns)}")


def _check_text(db: Connection, source: _Source, table: str) -> None:
    """Raise QpipeError for a value in a column of text that is none, as of a table without STRICT.

    Raise sqlite3.Error for text that is not UTF-8, which SQLite would copy.
    """
    query = "SELECT name FROM pragma_table_info(?, 'main') WHERE type = 'TEXT'"
    columns = [name for (name,) in db.execute(query, [table])]
    for row in db.execute(_select(source.schema, table, columns)):
        for column, value in zip(columns, row, strict=True):
            if value is not None and not isinstance(value, str):
                raise not_of_qpipe(source.file, f"{table}.{column} is {value!r}")


# ---- copying


@contextmanager
def _transaction(db: Connection, path: Path) -> Iterator[None]:
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise cannot_write(path, error) from error


def _merge_source(db: Connection, source: _Source) -> Merged:
    merged = Merged(source.file)
    runs = db.execute(f"SELECT id FROM {source.schema}.runs ORDER BY started, id")  # noqa: S608
    for (run,) in runs.fetchall():
        _merge_run(db, source, run, merged)
    merged.devices = _copy_new_rows(db, source, "devices")
    _copy_new_rows(db, source, "tags")
    return merged


def _merge_run(db: Connection, source: _Source, run: str, merged: Merged) -> None:
    if not db.execute("SELECT 1 FROM main.runs WHERE id = ?", [run]).fetchone():
        merged.added += 1
    elif not any(_differs(db, source, table, run) for table in COMPARED_TABLES):
        merged.same += 1
        return
    elif not _is_newer(db, source, run, merged):
        merged.kept += 1
        return
    else:
        merged.replaced += 1
        for table in REPLACED_TABLES:
            db.execute(f"DELETE FROM main.{table} WHERE run = ?", [run])  # noqa: S608
    for table in RUN_TABLES:
        copied = _copy_rows_of_run(db, source, table, run)
        if table == "measurements":
            merged.measurements += copied


def _differs(db: Connection, source: _Source, table: str, run: str) -> bool:
    """Return whether the rows of a run in a table are not the same in both."""
    if _is_left_out(db, source, table):
        return False
    columns = _columns(db, "main", table)
    own_rows = _select("main", table, columns, RUN_TABLES[table])
    other_rows = _select(source.schema, table, columns, RUN_TABLES[table])
    for query in (f"{own_rows} EXCEPT {other_rows}", f"{other_rows} EXCEPT {own_rows}"):
        if db.execute(f"{query} LIMIT 1", {"run": run}).fetchone():
            return True
    return False


def _is_newer(db: Connection, source: _Source, run: str, merged: Merged) -> bool:
    """Return whether the source's version of a run is the one to have; add a line that says why."""
    own = _progress(db, "main", run)
    other = _progress(db, source.schema, run)
    is_newer = other > own
    if is_newer:
        choice = f"taken from {source.file}"
    else:
        choice = f"kept as it is here, not as in {source.file}"
    merged.told.append(f"run {run}: {choice}: there {other.describe()}; here {own.describe()}")
    return is_newer


class _Progress(NamedTuple):
    """How far a run has come; the greater of two is the one to have."""

    is_done: bool
    last_change: str
    state: str

    def describe(self) -> str:
        return f"{self.state}, worked on until {self.last_change[:19]}"


def _progress(db: Connection, schema: str, run: str) -> _Progress:
    query = f"""
        SELECT state, max(
          started,
          coalesce(finished, ''),
          coalesce((SELECT max(started) FROM {schema}.steps WHERE run = :run), ''),
          coalesce((SELECT max(finished) FROM {schema}.steps WHERE run = :run), ''),
          coalesce((SELECT max(measured_at) FROM {schema}.measurements WHERE run = :run), '')
        )
        FROM {schema}.runs WHERE id = :run
    """  # noqa: S608
    state, last_change = db.execute(query, {"run": run}).fetchone()
    return _Progress(state == "done", last_change, state)


def _copy_rows_of_run(db: Connection, source: _Source, table: str, run: str) -> int:
    """Copy the rows of a run in the order in which they were recorded; return their number."""
    if _is_left_out(db, source, table):
        return 0
    columns = _columns(db, "main", table)
    rows = _select(source.schema, table, columns, RUN_TABLES[table])
    order = "" if table == "values" else "ORDER BY rowid"
    insert = f"INSERT INTO main.{_into(table, columns)} {rows} {order}"
    if table == "runs":  # a run that is replaced keeps its row, which its tags refer to
        changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns)
        insert += f" ON CONFLICT (id) DO UPDATE SET {changes}"
    return _insert(db, source, table, insert, run=run)


def _copy_new_rows(db: Connection, source: _Source, table: str) -> int:
    """Copy the rows whose key is new; return their number."""
    columns = _columns(db, "main", table)
    rows = _select(source.schema, table, columns, "true")
    insert = f"INSERT INTO main.{_into(table, columns)} {rows} ON CONFLICT DO NOTHING"
    return _insert(db, source, table, insert)


def _insert(db: Connection, source: _Source, table: str, sql: str, **parameters: str) -> int:
    """Insert rows and return their number; raise QpipeError where they break a constraint."""
    try:
        return db.execute(sql, parameters).rowcount
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname == "SQLITE_CONSTRAINT_FOREIGNKEY":
            raise not_of_qpipe(source.file, f"a row of {table} belongs to nothing") from error
        raise not_of_qpipe(source.file, f"{table}: {error}") from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":
            raise  # a full disk, and the like
        raise not_of_qpipe(source.file, f"{table}: {error}") from error


# ---- SQL. Every name in it is that of a table or a column of this qpipe's own


def _columns(db: Connection, schema: str, table: str) -> list[str]:
    query = "SELECT name FROM pragma_table_info(?, ?)"
    return [name for (name,) in db.execute(query, [table, schema])]


def _select(schema: str, table: str, columns: Sequence[str], where: str = "true") -> str:
    condition = where.format(schema=schema)
    return f'SELECT {_quoted(columns)} FROM {schema}."{table}" WHERE {condition}'  # noqa: S608


def _into(table: str, columns: Sequence[str]) -> str:
    return f'"{table}" ({_quoted(columns)})'


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
