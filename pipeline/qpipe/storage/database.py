"""One SQLite file: opened, brought up to date, read and written, whole or not at all, by several at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import sqlite_utils
from sqlite_utils.db import Table
from sqlite_utils.migrations import Migrations

from qpipe.errors import QpipeError
from qpipe.storage.migrations import MIGRATIONS
from qpipe.storage.rows import Row, decoded, encoded

BUSY_S = 30  # another process is writing: wait so long


class Database:
    """The database at a path, created where there is none; usable from several threads and processes at once.

    QpipeError where the file is no database, was written by a newer qpipe, or is not there and not to be created.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        if not create and not path.exists():
            raise QpipeError(f"{path}: there is no such database; give that of your runs with --db")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise QpipeError(
                f"{path}: cannot open the database: {error}; give a file in a writable folder"
            ) from error
        self._db = sqlite_utils.Database(connection, execute_plugins=False)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        migrations = _migrations()
        try:
            self._db.enable_wal()
            self._db.execute("PRAGMA foreign_keys=on")
            newer = {migration.name for migration in migrations.applied(self._db)} - dict(
                MIGRATIONS
            ).keys()
            if not newer and migrations.pending(self._db):
                with (
                    self._transaction()
                ):  # of two processes that find no tables one waits for the other
                    migrations.apply(self._db)
        except sqlite3.Error as error:
            raise QpipeError(
                f"{self.path}: not a database of qpipe: {error}; give another file"
            ) from error
        if newer:
            raise QpipeError(
                f"{self.path}: made by a newer qpipe, which added {', '.join(sorted(newer))}; "
                "upgrade qpipe-edge, or give another file"
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, sql: str, *parameters: Any) -> list[Row]:
        with self._transaction("DEFERRED") as db:
            return [decoded(row) for row in db.query(sql, parameters)]

    def _write(self, table: str, key: list[str], rows: list[Row]) -> None:
        with self._transaction() as db:
            upsert(db, table, key, rows)

    @contextmanager
    def _transaction(
        self, mode: Literal["DEFERRED", "IMMEDIATE"] = "IMMEDIATE"
    ) -> Iterator[sqlite_utils.Database]:
        # immediate: a transaction that reads before it writes cannot wait for another writer, it fails at once
        with self._lock:
            try:
                self._db.execute(f"BEGIN {mode}")
                yield self._db
                self._db.commit()
            except BaseException as error:
                self._db.rollback()
                if (
                    isinstance(error, sqlite3.OperationalError)
                    and error.sqlite_errorname != "SQLITE_ERROR"
                ):
                    raise QpipeError(
                        f"{self.path}: {error}; free space, or let the other process end"
                    ) from error
                raise  # wrong SQL is a bug of ours


def _migrations() -> Migrations:
    known = Migrations("qpipe")
    for name, sql in MIGRATIONS:
        known(name=name)(_migration(sql))
    return known


def _migration(sql: str) -> Callable[[sqlite_utils.Database], None]:
    def migrate(db: sqlite_utils.Database, /) -> None:
        db.executescript(sql)

    return migrate


def table(db: sqlite_utils.Database, name: str) -> Table:
    """One of its tables."""
    return db.table(name)


def upsert(db: sqlite_utils.Database, name: str, key: list[str], rows: list[Row]) -> None:
    """Insert rows, or set their columns where the key is there."""
    if rows:
        table(db, name).upsert_all(map(encoded, rows), pk=key[0] if len(key) == 1 else tuple(key))
