"""One SQLite file that remembers every run: migrations, writes that are whole or not there, questions.

Any SQL client reads it. Two files merge by union: ids are unique in the world, a measurement's is made of its
coordinates, and each measurement carries the digests of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlite_utils
from sqlite_utils.db import Table
from sqlite_utils.migrations import Migrations

from qpipe.errors import QpipeError
from qpipe.schema import MIGRATIONS
from qpipe.types import Capabilities, Measurement

State = Literal["running", "done", "partial", "failed", "interrupted"]
Row = dict[str, Any]

COORDINATES = ("model", "scheme", "build", "device")  # what a sweep adds goes into the column `extra`, as JSON
FACTS = (
    "step", "runtime", "is_float", "model_digest", "build_digest", "evaluation_digest", "metric_digest", "target",
    "fingerprint",
)  # fmt: skip
JSON = ("versions", "request", "key_fields", "capabilities", "target", "extra", "objectives", "margins", "detail")
_ORDERED = ("objectives", "margins")  # the recipe's order says which it names first
BUSY_S = 30  # another process is writing: wait so long


class Store:
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
            raise QpipeError(f"{path}: cannot open the database: {error}; give a file in a writable folder") from error
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
            newer = {migration.name for migration in migrations.applied(self._db)} - dict(MIGRATIONS).keys()
            if not newer and migrations.pending(self._db):
                with self._transaction():  # of two processes that find no tables one waits for the other
                    migrations.apply(self._db)
        except sqlite3.Error as error:
            raise QpipeError(f"{self.path}: not a database of qpipe: {error}; give another file") from error
        if newer:
            raise QpipeError(
                f"{self.path}: made by a newer qpipe, which added {', '.join(sorted(newer))}; "
                "upgrade qpipe-edge, or give another file"
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- runs and steps

    def new_run(
        self,
        recipe: str,
        *,
        recipe_path: str,
        recipe_digest: str,
        recipe_text: str,
        versions: Mapping[str, str],
        request: Mapping[str, Any] | None = None,
        objectives: Mapping[str, str] | None = None,
    ) -> str:
        """Its id, which sorts by time: 20261123-142501-ab12cd.

        `objectives` are the recipe's, each with min or max: a run that is cut is judged by them when it is read.
        """
        now = datetime.now(UTC)
        run = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        row = {
            "id": run, "recipe": recipe, "recipe_path": recipe_path, "recipe_digest": recipe_digest,
            "recipe_text": recipe_text, "started": _iso(now), "state": "running", "versions": versions,
            "request": request or {}, "objectives": objectives or {}, "host": platform.node(),
        }  # fmt: skip
        self._write("runs", ["id"], [row])
        return run

    def finish_run(self, run: str, state: State) -> None:
        """It is at its end, and so is what was cut in it: that is still to do."""
        with self._transaction() as db:
            _upsert(db, "runs", ["id"], [{"id": run, "state": state, "finished": _iso()}])
            db.execute("UPDATE steps SET state = 'pending' WHERE run = ? AND state = 'running'", [run])

    def resume_run(self, run: str, *, objectives: Mapping[str, str] | None = None) -> None:
        """It is running again, with the objectives the recipe has now. Its numbers and verdicts go: what they were made
        from may have changed meanwhile, and what still holds is recorded again from the cache and the journals."""
        changed = {} if objectives is None else {"objectives": objectives}
        with self._transaction() as db:
            _table(db, "verdicts").delete_where("run = ?", [run])
            _table(db, "values").delete_where("measurement IN (SELECT id FROM measurements WHERE run = ?)", [run])
            _table(db, "measurements").delete_where("run = ?", [run])
            _upsert(db, "runs", ["id"], [{"id": run, "state": "running", "finished": None, **changed}])

    def unfinished_run(self, recipe_digest: str) -> str | None:
        """The newest run of this expanded recipe, where something of it is still to do: it was cut, or steps failed."""
        newest = self._read("SELECT id, state FROM runs WHERE recipe_digest = ? ORDER BY started DESC", recipe_digest)
        return newest[0]["id"] if newest and newest[0]["state"] != "done" else None

    def run(self, run: str) -> Row:
        """A run by its id or the beginning of it, else the newest with that tag; QpipeError where several ids begin so,
        an id and another run's tag fit alike, or nothing does."""
        found = self._read("SELECT * FROM runs WHERE substr(id, 1, ?) = ? ORDER BY started DESC", len(run), run)
        tagged = self.runs(tag=run)
        if any(row["id"] == run for row in found):
            return found[0]
        if found and tagged and (len(found) > 1 or found[0] != tagged[0]):
            both = f"{_ids(found)} begins so, and {_ids(tagged)} has that tag"
            raise QpipeError(f"run '{run}': {both}; give more of the id")
        if len(found) > 1:
            raise QpipeError(f"run '{run}': {len(found)} runs begin so; there is {_ids(found)}")
        if found or tagged:
            return (found or tagged)[0]
        runs, tags = self.runs(), sorted({tag for own in self.tags().values() for tag in own})
        also = f", and the tags {', '.join(tags)}" if tags else ""
        raise QpipeError(f"run '{run}': there is no such run; there is {_ids(runs) if runs else 'none yet'}{also}")

    def runs(self, recipe: str | None = None, *, tag: str | None = None) -> list[Row]:
        """All runs, or those of a recipe's name, or with a tag, newest first."""
        return self._read(
            "SELECT * FROM runs WHERE (?1 IS NULL OR recipe = ?1) "
            "AND (?2 IS NULL OR id IN (SELECT run FROM tags WHERE tag = ?2)) ORDER BY started DESC, id DESC",
            recipe, tag,
        )  # fmt: skip

    def tags(self) -> dict[str, list[str]]:
        """The tags of each run that has any."""
        found: dict[str, list[str]] = {}
        for row in self._read("SELECT run, tag FROM tags ORDER BY run, tag"):
            found.setdefault(row["run"], []).append(row["tag"])
        return found

    def tag(self, run: str, tags: Iterable[str]) -> None:
        """Give a run tags; those it has already stay."""
        self._write("tags", ["run", "tag"], [{"run": run, "tag": tag} for tag in tags])

    def untag(self, run: str, tags: Iterable[str]) -> None:
        """Take tags from a run, where it has them."""
        with self._transaction() as db:
            for tag in tags:
                _table(db, "tags").delete_where("run = ? AND tag = ?", [run, tag])

    def latest_run(self, recipe: str | None = None) -> Row | None:
        return next(iter(self.runs(recipe)), None)

    def record_step(self, run: str, step: str, **fields: Any) -> None:
        """What is known of a step by now (any columns of `steps`); what was recorded before and is not given stays."""
        self.record_steps(run, [{"step": step, **fields}])

    def record_steps(self, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Several steps, all or none; each has `step`, and all have the same columns of `steps`."""
        self._write("steps", ["run", "step"], [{"run": run, **row} for row in rows])

    def steps(self, run: str) -> list[Row]:
        """In the order in which they were first recorded."""
        return self._read("SELECT * FROM steps WHERE run = ? ORDER BY rowid", run)

    # ---- measurements and verdicts

    def record_measurements(
        self, run: str, coordinates: Mapping[str, str], measurements: Iterable[Measurement], **facts: Any
    ) -> None:
        """Measurements of one row with their raw values, all or none; a metric recorded before is replaced.

        `coordinates` has model, scheme, build and device, and whatever a sweep adds; `facts` are any of FACTS.
        """
        unknown = set(facts) - set(FACTS)
        if unknown:
            raise TypeError(f"record_measurements takes the facts {', '.join(FACTS)}, not {', '.join(sorted(unknown))}")
        place = {"run": run, **_coordinates(coordinates)}
        rows, values = [], []
        for measurement in measurements:
            id_ = _measurement_id(place, measurement.metric)
            rows.append({"id": id_, **place, **_measured(place, measurement), **facts, "measured_at": _iso()})
            values += [
                {"measurement": id_, "round": number, "position": position, "value": float(value)}
                for number, round_ in enumerate(measurement.rounds)
                for position, value in enumerate(round_)
            ]
        with self._transaction() as db:
            _upsert(db, "measurements", ["id"], rows)
            for row in rows:
                _table(db, "values").delete_where("measurement = ?", [row["id"]])
            _upsert(db, "values", ["measurement", "round", "position"], values)

    def measurements(self, run: str) -> list[Row]:
        """Every column; the coordinates a sweep added under `extra`."""
        return self._read("SELECT * FROM measurements WHERE run = ? ORDER BY rowid", run)

    def values(self, measurement: str) -> list[list[float]]:
        """The raw values of a measurement's id, round by round."""
        rounds: dict[int, list[float]] = {}
        query = 'SELECT round, value FROM "values" WHERE measurement = ? ORDER BY round, position'
        for row in self._read(query, measurement):
            rounds.setdefault(row["round"], []).append(row["value"])
        return list(rounds.values())

    def record_verdicts(self, run: str, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Replace a run's verdicts; each has the coordinates, on_front, reason, objectives and margins."""
        rows = [{**verdict, "run": run, "extra": verdict.get("extra", {})} for verdict in verdicts]
        with self._transaction() as db:
            _table(db, "verdicts").delete_where("run = ?", [run])
            _upsert(db, "verdicts", ["run", *COORDINATES, "extra"], rows)

    def verdicts(self, run: str) -> list[Row]:
        return self._read("SELECT * FROM verdicts WHERE run = ? ORDER BY rowid", run)

    # ---- devices

    def save_device(self, name: str, kind: str, capabilities: Capabilities) -> None:
        """What a device said at its check, now."""
        row = {
            "name": name, "kind": kind, "capabilities": asdict(capabilities),
            "fingerprint": capabilities.fingerprint, "checked": _iso(),
        }  # fmt: skip
        self._write("devices", ["name"], [row])

    def device(self, name: str) -> Row | None:
        """Its last check, `capabilities` as the dataclass; None where it was never checked."""
        found = self._read("SELECT * FROM devices WHERE name = ?", name)
        return {**found[0], "capabilities": _capabilities(found[0]["capabilities"])} if found else None

    # ---- how it reads and writes

    def _read(self, sql: str, *parameters: Any) -> list[Row]:
        with self._transaction("DEFERRED") as db:
            return [_decoded(row) for row in db.query(sql, parameters)]

    def _write(self, table: str, key: list[str], rows: list[Row]) -> None:
        with self._transaction() as db:
            _upsert(db, table, key, rows)

    @contextmanager
    def _transaction(self, mode: Literal["DEFERRED", "IMMEDIATE"] = "IMMEDIATE") -> Iterator[sqlite_utils.Database]:
        # immediate: a transaction that reads before it writes cannot wait for another writer, it fails at once
        with self._lock:
            try:
                self._db.execute(f"BEGIN {mode}")
                yield self._db
                self._db.commit()
            except BaseException as error:
                self._db.rollback()
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname != "SQLITE_ERROR":
                    raise QpipeError(f"{self.path}: {error}; free space, or let the other process end") from error
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


def _table(db: sqlite_utils.Database, name: str) -> Table:
    return db.table(name)


def _upsert(db: sqlite_utils.Database, table: str, key: list[str], rows: list[Row]) -> None:
    encoded = ({k: _json(k, v) if k in JSON else v for k, v in row.items()} for row in rows)
    if rows:
        _table(db, table).upsert_all(encoded, pk=key[0] if len(key) == 1 else tuple(key))


def _json(column: str, value: Any) -> str:
    return json.dumps(value, sort_keys=column not in _ORDERED)


def _decoded(row: Row) -> Row:
    return {key: json.loads(value) if key in JSON and value is not None else value for key, value in row.items()}


def _coordinates(coordinates: Mapping[str, str]) -> Row:
    extra = {key: value for key, value in coordinates.items() if key not in COORDINATES}
    return {**{name: coordinates[name] for name in COORDINATES}, "extra": extra}


def _measurement_id(place: Row, metric: str) -> str:
    return hashlib.sha256(json.dumps([place, metric], sort_keys=True).encode()).hexdigest()[:24]


def _measured(place: Row, measurement: Measurement) -> Row:
    numbers = [measurement.value, *(value for round_ in measurement.rounds for value in round_)]
    if not all(math.isfinite(number) for number in numbers):
        where = "/".join(place[name] for name in COORDINATES)
        raise QpipeError(f"{where}: {measurement.metric} is not a number; a metric gives a finite one")
    row = asdict(measurement)
    kept = {name: row[name] for name in ("metric", "value", "unit", "low", "high", "n", "better", "raw", "detail")}
    return {**kept, "value": float(measurement.value)}


def _capabilities(fields: Row) -> Capabilities:
    return Capabilities(**{**fields, "features": tuple(fields["features"])})


def _iso(time: datetime | None = None) -> str:
    return (time or datetime.now(UTC)).isoformat(timespec="microseconds")


def _ids(runs: list[Row]) -> str:
    return ", ".join(row["id"] for row in runs[:5])
