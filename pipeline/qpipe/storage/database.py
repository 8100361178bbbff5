"""One SQLite file: opened, brought up to date, and written in whole transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import (
    Any,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import TypeAdapter, ValidationError

from qpipe.delayed_imports import hide
from qpipe.errors import QpipeError
from qpipe.storage.migrations import BEFORE_RELEASE, MIGRATIONS
from qpipe.storage.rows import JSON_COLUMNS, Row, decode, encode

# where pandas is installed it is imported too, in half a second, for what is not used here
with hide("pandas"):
    import sqlite_utils
    from sqlite_utils.db import Table
    from sqlite_utils.migrations import Migrations

BUSY_TIMEOUT_S = 30  # how long to wait while another process writes
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables
MIGRATION_SET = "qpipe"
MIGRATIONS_TABLE = "_sqlite_migrations"
LONGEST_CELL = 1 << 26  # bytes; a larger one is none of qpipe's
APPLIED_MIGRATIONS = "SELECT name FROM {schema}._sqlite_migrations WHERE migration_set = ?"

Connection = sqlite_utils.Database  # with an open transaction, mostly
RowType = TypeVar("RowType")


class Database:
    """The database at a path, for several threads and processes at once; created where missing.

    Raise QpipeError where the file is not a database, was written by another version of qpipe, or
    is missing and must not be created.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        check_sqlite()
        if not create and not path.exists():
            raise QpipeError(f"{path}: there is no such database; give that of your runs with --db")
        self._db = sqlite_utils.Database(_connect(path), execute_plugins=False)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            objects = self._objects()
            if MIGRATIONS_TABLE in objects:
                applied = self._applied_migrations()
                check_migrations(self.path, applied)
                _check_objects(self.path, objects, applied)
            self._db.enable_wal()
            self._db.execute("PRAGMA foreign_keys=ON")
            if _migrations().pending(self._db):
                # of two processes that find no tables, one waits for the other
                with self._transaction():
                    _migrations().apply(self._db)
        except sqlite3.Error as error:
            raise not_of_qpipe(self.path, error) from error

    def _objects(self) -> dict[str, _Object]:
        """Return the tables, views and indexes by name; raise QpipeError for what could run code.

        Triggers are none of qpipe's, and a view in place of the first table that is read neither.
        """
        objects = _read_objects(self._db.conn)
        for name, found_object in objects.items():
            is_view_of_migrations = (name, found_object.kind) == (MIGRATIONS_TABLE, "view")
            if found_object.kind == "trigger" or is_view_of_migrations:
                raise not_of_qpipe(self.path, f"it has the {found_object.kind} '{name}'")
        return objects

    def _applied_migrations(self) -> set[str]:
        query = APPLIED_MIGRATIONS.format(schema="main")
        return {str(name) for (name,) in self._db.execute(query, [MIGRATION_SET])}

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, row_type: type[RowType], sql: str, *parameters: object) -> list[RowType]:
        """Return the rows of a query that has the columns of the row type, a TypedDict.

        Raise QpipeError where they are not of its types, as in a file that somebody else made.
        """
        try:
            with self._transaction("DEFERRED") as db:
                rows = [decode(row) for row in db.query(sql, parameters)]
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, ValueError, RecursionError) as error:
            raise not_of_qpipe(self.path, error) from error
        return self._checked_rows(row_type, rows)

    def _checked_rows(self, row_type: type[RowType], rows: Sequence[Row]) -> list[RowType]:
        """Return rows whose JSON has the types of its columns, and whose choices are among them.

        SQLite checks the others, and choices too, unless whoever wrote them told it not to.
        """
        for column, hint in get_type_hints(row_type).items():
            if column not in JSON_COLUMNS and not _is_choice(hint):
                continue
            for row in rows:
                if row[column] is not None:
                    self._check_value(column, hint, row[column])
        return cast("list[RowType]", rows)

    def _check_value(self, column: str, hint: object, value: object) -> None:
        """Raise QpipeError for what is not of a type, as in a file that somebody else made."""
        try:
            type_adapter(hint).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join([column, *(str(part) for part in first["loc"])])
            raise not_of_qpipe(self.path, f"{place}: {first['msg'].lower()}") from None

    def _write(self, table: str, key: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
        with self._transaction() as db:
            upsert(db, table, key, rows)

    @contextmanager
    def _transaction(
        self, mode: Literal["DEFERRED", "IMMEDIATE"] = "IMMEDIATE"
    ) -> Iterator[Connection]:
        # immediate: a transaction that reads first and writes later cannot wait for another writer
        with self._lock:
            try:
                self._db.execute(f"BEGIN {mode}")
                yield self._db
                self._db.commit()
            except BaseException as error:
                self._db.rollback()
                if _is_environmental(error):
                    raise cannot_write(self.path, error) from error
                raise


def _is_choice(hint: object) -> bool:
    """Return whether a type is a Literal, or one or None."""
    return any(get_origin(part) is Literal for part in (hint, *get_args(hint)))


@cache
def type_adapter(hint: Any) -> TypeAdapter[Any]:
    """Return what checks values of a type."""
    return TypeAdapter(hint)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        message = f"{path}: cannot open the database: {error}; give a file in a writable folder"
        raise QpipeError(message) from error
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_CELL)
    return connection


def _is_environmental(error: BaseException) -> bool:
    """Return whether the disk or another process caused an error, and not wrong SQL."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return error.sqlite_errorname != "SQLITE_ERROR"


class _Object(NamedTuple):
    """A table, view, index or trigger of a database, and the SQL that made it."""

    kind: str
    sql: str


def _read_objects(db: sqlite3.Connection) -> dict[str, _Object]:
    rows = db.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: _Object(kind, " ".join(sql.split())) for name, kind, sql in rows}


def _check_objects(
    path: Path, objects: Mapping[str, _Object], applied_migrations: Collection[str]
) -> None:
    """Raise QpipeError where a table or view is not as the migrations make it.

    Others beside them, such as views of the user's own, are never read.
    """
    for name, made_object in _made_objects(frozenset(applied_migrations)).items():
        if objects.get(name) != made_object:
            raise not_of_qpipe(path, f"the {made_object.kind} '{name}' is not as qpipe makes it")


@cache
def _made_objects(applied_migrations: frozenset[str]) -> Mapping[str, _Object]:
    with closing(sqlite3.connect(":memory:")) as db:
        for name, sql in MIGRATIONS:
            if name in applied_migrations:
                db.executescript(sql)
        return _read_objects(db)


def check_sqlite() -> None:
    """Raise QpipeError where the SQLite of this Python lacks STRICT tables."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(str(number) for number in OLDEST_SQLITE[:2])
        raise QpipeError(
            f"SQLite {sqlite3.sqlite_version} of this Python is too old for the database; "
            f"use a Python with SQLite {oldest} or newer"
        )


def check_migrations(path: Path, applied: Collection[str]) -> None:
    """Raise QpipeError where a newer qpipe, or one from before the release, wrote the file."""
    if BEFORE_RELEASE in applied:
        raise QpipeError(
            f"{path}: made by a qpipe from before its first release, which this one cannot read; "
            "give a new file with --db, or keep the older qpipe for this one"
        )
    newer = sorted(set(applied) - dict(MIGRATIONS).keys())
    if newer:
        raise QpipeError(
            f"{path}: made by a newer qpipe, which added {', '.join(newer)}; "
            "upgrade qpipe-edge, or give another file"
        )


def not_of_qpipe(path: Path, reason: object) -> QpipeError:
    """Return the error for a file that is not a database of qpipe."""
    return QpipeError(f"{path}: not a database of qpipe: {reason}; give another file")


def cannot_write(path: Path, reason: object) -> QpipeError:
    """Return the error for a full disk or a busy database."""
    return QpipeError(f"{path}: {reason}; free space, or let the other process end")


def _migrations() -> Migrations:
    migrations = Migrations(MIGRATION_SET)
    for name, sql in MIGRATIONS:
        migrations(name=name)(_migration(sql))
    return migrations


def _migration(sql: str) -> Callable[[Connection], None]:
    def migrate(db: Connection, /) -> None:
        db.executescript(sql)

    return migrate


def table(db: Connection, name: str) -> Table:
    """Return a table by name."""
    return db.table(name)


def upsert(
    db: Connection,
    name: str,
    key: Sequence[str],
    rows: Sequence[Mapping[str, object]],
) -> None:
    """Insert rows into a table; where a row with that key exists, set its columns instead."""
    for columns, group in groupby(rows, tuple):
        encoded = [encode(row) for row in group]
        values = [[row[column] for column in columns] for row in encoded]
        db.conn.executemany(_upsert_statement(name, tuple(key), columns), values)


@cache
def _upsert_statement(name: str, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """Return the SQL that upserts a row; sqlite_utils, which makes it anew each time, is slow."""
    changes = [f'"{column}" = excluded."{column}"' for column in columns if column not in key]
    action = f"UPDATE SET {', '.join(changes)}" if changes else "NOTHING"
    return (
        f'INSERT INTO "{name}" ({_quoted(columns)}) VALUES ({", ".join("?" * len(columns))}) '  # noqa: S608  (names are of tables and columns of qpipe)
        f"ON CONFLICT ({_quoted(key)}) DO {action}"
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
