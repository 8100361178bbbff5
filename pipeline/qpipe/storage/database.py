"""One SQLite file: opened, brought up to date, and written in whole transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

import sqlite_utils
from sqlite_utils.db import Table
from sqlite_utils.migrations import Migrations

from qpipe.errors import QpipeError
from qpipe.storage.migrations import BEFORE_RELEASE, MIGRATIONS
from qpipe.storage.rows import decode, encode

BUSY_TIMEOUT_S = 30  # how long to wait while another process writes
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables
MIGRATION_SET = "qpipe"
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
            if self._db["_sqlite_migrations"].exists():
                check_migrations(self.path, self._applied_migrations())
            self._db.enable_wal()
            self._db.execute("PRAGMA foreign_keys=ON")
            if _migrations().pending(self._db):
                # of two processes that find no tables, one waits for the other
                with self._transaction():
                    _migrations().apply(self._db)
        except sqlite3.Error as error:
            raise not_of_qpipe(self.path, error) from error

    def _applied_migrations(self) -> set[str]:
        query = APPLIED_MIGRATIONS.format(schema="main")
        return {name for (name,) in self._db.execute(query, [MIGRATION_SET])}

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, _row_type: type[RowType], sql: str, *parameters: object) -> list[RowType]:
        """Return the rows of a query that has the columns of the row type, a TypedDict."""
        with self._transaction("DEFERRED") as db:
            rows = [decode(row) for row in db.query(sql, parameters)]
        return cast("list[RowType]", rows)

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


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        message = f"{path}: cannot open the database: {error}; give a file in a writable folder"
        raise QpipeError(message) from error


def _is_environmental(error: BaseException) -> bool:
    """Return whether the disk or another process caused an error, and not wrong SQL."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return error.sqlite_errorname != "SQLITE_ERROR"


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
    if rows:
        primary_key = key[0] if len(key) == 1 else tuple(key)
        table(db, name).upsert_all([encode(row) for row in rows], pk=primary_key)
