"""One SQLite file that remembers every run: migrations, writes that are whole or not there, questions.

Any SQL client reads it. Two files merge by union: ids are unique in the world, a measurement's is made of its
coordinates, and each measurement carries the digests of all that it depends on.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from qpipe.errors import QpipeError
from qpipe.storage.database import BUSY_S as BUSY_S
from qpipe.storage.database import Database, table, upsert
from qpipe.storage.rows import COORDINATES as COORDINATES
from qpipe.storage.rows import FACTS, conditions, iso, measured, measurement_id, placed, raw_values
from qpipe.storage.rows import JSON as JSON
from qpipe.storage.rows import Row as Row
from qpipe.types import Capabilities, Measurement

State = Literal["running", "done", "partial", "failed", "interrupted"]
MeasuredRow = tuple[
    Mapping[str, str], Iterable[Measurement], Mapping[str, Any]
]  # coordinates, numbers, facts


class Store(Database):
    """What qpipe knows, in a database."""

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
        margins: Mapping[str, float] | None = None,
    ) -> str:
        """Its id, which sorts by time: 20261123-142501-ab12cd.

        `objectives` are the recipe's, each with min or max, and `margins` what it says of them: a run that is cut is
        judged by them when it is read.
        """
        now = datetime.now(UTC)
        run = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        row = {
            "id": run,
            "recipe": recipe,
            "recipe_path": recipe_path,
            "recipe_digest": recipe_digest,
            "recipe_text": recipe_text,
            "started": iso(now),
            "state": "running",
            "versions": versions,
            "request": request or {},
            "objectives": objectives or {},
            "margins": margins or {},
            "host": platform.node(),
        }
        self._write("runs", ["id"], [row])
        return run

    def finish_run(self, run: str, state: State) -> None:
        """It is at its end, and so is what was cut in it: that is still to do."""
        with self._transaction() as db:
            upsert(db, "runs", ["id"], [{"id": run, "state": state, "finished": iso()}])
            db.execute(
                "UPDATE steps SET state = 'pending' WHERE run = ? AND state = 'running'", [run]
            )
            db.execute(
                "UPDATE attempts SET state = 'interrupted' WHERE run = ? AND state = 'running'",
                [run],
            )

    def resume_run(
        self,
        run: str,
        *,
        objectives: Mapping[str, str] | None = None,
        margins: Mapping[str, float] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        """It is running again, with the objectives the recipe has now. Its verdicts go, for they are of all its rows;
        its numbers stay until their own steps give others: not every step is carried out again."""
        given = {"objectives": objectives, "margins": margins, "request": request}
        changed = {name: value for name, value in given.items() if value is not None}
        with self._transaction() as db:
            table(db, "verdicts").delete_where("run = ?", [run])
            upsert(
                db, "runs", ["id"], [{"id": run, "state": "running", "finished": None, **changed}]
            )
            db.execute(
                "UPDATE attempts SET state = 'interrupted' WHERE run = ? AND state = 'running'",
                [run],
            )

    def unfinished_run(self, recipe_digest: str) -> str | None:
        """The newest run of this expanded recipe, where something of it is still to do: it was cut, or steps failed."""
        newest = self._read(
            "SELECT id, state FROM runs WHERE recipe_digest = ? ORDER BY started DESC",
            recipe_digest,
        )
        return newest[0]["id"] if newest and newest[0]["state"] != "done" else None

    def run(self, run: str) -> Row:
        """A run by its id or the beginning of it, else the newest with that tag; QpipeError where several ids begin so,
        an id and another run's tag fit alike, or nothing does."""
        found = self._read(
            "SELECT * FROM runs WHERE substr(id, 1, ?) = ? ORDER BY started DESC", len(run), run
        )
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
        runs = self.runs()
        tags = sorted({tag for own in self.tags().values() for tag in own})
        also = f", and the tags {', '.join(tags)}" if tags else ""
        raise QpipeError(
            f"run '{run}': there is no such run; there is {_ids(runs) if runs else 'none yet'}{also}"
        )

    def runs(self, recipe: str | None = None, *, tag: str | None = None) -> list[Row]:
        """All runs, or those of a recipe's name, or with a tag, newest first."""
        return self._read(
            "SELECT * FROM runs WHERE (?1 IS NULL OR recipe = ?1) "
            "AND (?2 IS NULL OR id IN (SELECT run FROM tags WHERE tag = ?2)) ORDER BY started DESC, id DESC",
            recipe,
            tag,
        )

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
                table(db, "tags").delete_where("run = ? AND tag = ?", [run, tag])

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

    def record_attempt(self, run: str, step: str, attempt: int, **fields: Any) -> None:
        """What is known by now of one try of a step, as columns of `attempts`; it was tried so often."""
        with self._transaction() as db:
            row = {"run": run, "step": step, "attempt": attempt, **fields}
            upsert(db, "attempts", ["run", "step", "attempt"], [row])
            upsert(db, "steps", ["run", "step"], [{"run": run, "step": step, "attempts": attempt}])

    def attempts(self, run: str, step: str) -> list[Row]:
        """Every try of a step, in all sessions of the run."""
        return self._read(
            "SELECT * FROM attempts WHERE run = ? AND step = ? ORDER BY attempt", run, step
        )

    def failures(self) -> dict[str, dict[str, int]]:
        """How many steps of each run failed, by the type of failure."""
        found: dict[str, dict[str, int]] = {}
        counted = "SELECT run, failure, count(*) AS n FROM steps WHERE state = 'failed' GROUP BY run, failure"
        for row in self._read(counted):
            found.setdefault(row["run"], {})[row["failure"] or "bug"] = row["n"]
        return found

    # ---- measurements and verdicts

    def record_measurements(
        self,
        run: str,
        coordinates: Mapping[str, str],
        measurements: Iterable[Measurement],
        **facts: Any,
    ) -> None:
        """Measurements of one row with their raw values, all or none; a metric recorded before is replaced.

        `coordinates` has model, scheme, build and device, and whatever a sweep adds; `facts` are any of FACTS.
        """
        with self._transaction():
            self._record_row(run, coordinates, measurements, facts)

    def replace_measurements(self, run: str, step: str, rows: Iterable[MeasuredRow]) -> None:
        """What a step measured, in place of what another attempt at it did, all or none: two are never mixed."""
        with self._transaction():
            self._forget("run = ? AND step = ?", [run, step])
            for coordinates, measurements, facts in rows:
                self._record_row(run, coordinates, measurements, {**facts, "step": step})

    def forget_measurements(self, run: str, steps: Iterable[str]) -> None:
        """Drop what these steps measured: they are not any more what they were then."""
        with self._transaction():
            for step in steps:
                self._forget("run = ? AND step = ?", [run, step])

    def forget_strangers(self, run: str, steps: Collection[str], devices: Collection[str]) -> None:
        """Drop what other steps than these measured; what was on these devices stays, for nobody knows its steps."""
        with self._transaction() as db:
            measured = db.query("SELECT id, step, device FROM measurements WHERE run = ?", [run])
            strange = [
                row for row in measured if row["step"] not in steps and row["device"] not in devices
            ]
            for row in strange:
                self._forget("id = ?", [row["id"]])

    def _record_row(
        self,
        run: str,
        coordinates: Mapping[str, str],
        measurements: Iterable[Measurement],
        facts: Mapping[str, Any],
    ) -> None:
        """Of one row, in the transaction that is open."""
        unknown = set(facts) - set(FACTS)
        if unknown:
            raise TypeError(
                f"a measurement has the facts {', '.join(FACTS)}, not {', '.join(sorted(unknown))}"
            )
        place = {"run": run, **placed(coordinates)}
        for measurement in measurements:
            id_ = measurement_id(place, measurement.metric)
            row = {
                "id": id_,
                **place,
                **measured(place, measurement),
                **facts,
                "measured_at": iso(),
            }
            upsert(self._db, "measurements", ["id"], [row])
            self._drop_raw("measurement = ?", [id_])
            upsert(
                self._db,
                "values",
                ["measurement", "round", "position"],
                raw_values(id_, measurement),
            )
            upsert(self._db, "rounds", ["measurement", "round"], conditions(id_, measurement))

    def _forget(self, where: str, parameters: list[str]) -> None:
        """Drop measurements with all that stands behind them, in the transaction that is open."""
        self._drop_raw(f"measurement IN (SELECT id FROM measurements WHERE {where})", parameters)  # noqa: S608
        table(self._db, "measurements").delete_where(where, parameters)

    def _drop_raw(self, where: str, parameters: list[str]) -> None:
        """Drop the raw values and the rounds of measurements, in the transaction that is open."""
        for name in ("values", "rounds"):
            table(self._db, name).delete_where(where, parameters)

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

    def rounds(self, measurement: str) -> list[Row]:
        """Of each round of a measurement's id: `invalid`, why it was left out, and `environment`."""
        return self._read("SELECT * FROM rounds WHERE measurement = ? ORDER BY round", measurement)

    def record_verdicts(self, run: str, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Replace a run's verdicts; each has the coordinates, on_front, reason, objectives and margins."""
        rows = [{**verdict, "run": run, "extra": verdict.get("extra", {})} for verdict in verdicts]
        with self._transaction() as db:
            table(db, "verdicts").delete_where("run = ?", [run])
            upsert(db, "verdicts", ["run", *COORDINATES, "extra"], rows)

    def verdicts(self, run: str) -> list[Row]:
        return self._read("SELECT * FROM verdicts WHERE run = ? ORDER BY rowid", run)

    # ---- devices

    def save_device(self, name: str, kind: str, capabilities: Capabilities) -> None:
        """What a device said at its check, now."""
        row = {
            "name": name,
            "kind": kind,
            "capabilities": asdict(capabilities),
            "fingerprint": capabilities.fingerprint,
            "checked": iso(),
        }
        self._write("devices", ["name"], [row])

    def device(self, name: str) -> Row | None:
        """Its last check, `capabilities` as the dataclass; None where it was never checked."""
        found = self._read("SELECT * FROM devices WHERE name = ?", name)
        return (
            {**found[0], "capabilities": _capabilities(found[0]["capabilities"])} if found else None
        )

    def record_devices(self, run: str, devices: Mapping[str, Capabilities]) -> None:
        """What the devices that a run reached say of themselves, now."""
        rows = [
            {"run": run, "device": name, "capabilities": asdict(own)}
            for name, own in devices.items()
        ]
        self._write("run_devices", ["run", "device"], rows)

    def capabilities(self, run: str) -> dict[str, Capabilities]:
        """What each device of a run said of itself when its numbers there were measured, whatever it became since.

        A device is left out where nobody knows: it was never reached, or an older qpipe measured it.
        """
        rows = self._read(
            "SELECT device, capabilities FROM run_devices WHERE run = ? ORDER BY rowid", run
        )
        return {row["device"]: _capabilities(row["capabilities"]) for row in rows}

    def device_names(self) -> list[str]:
        """Those that were checked, or to which anything happened."""
        found = self._read(
            "SELECT name FROM devices UNION SELECT device FROM device_events ORDER BY 1"
        )
        return [row["name"] for row in found]

    def record_event(self, device: str, **fields: Any) -> None:
        """Something that happened to a device, now: any columns of `device_events`."""
        with self._transaction() as db:
            table(db, "device_events").insert({"device": device, "at": iso(), **fields})

    def events(self, device: str) -> list[Row]:
        """All that happened to a device, oldest first."""
        return self._read("SELECT * FROM device_events WHERE device = ? ORDER BY id", device)

    def health(self, device: str) -> Row | None:
        """Its health (good, unknown, bad), since when, why and at which step; None where it never was in a run."""
        found = self._read("SELECT * FROM device_health WHERE device = ?", device)
        return found[0] if found else None


def _capabilities(fields: Row) -> Capabilities:
    return Capabilities(**{**fields, "features": tuple(fields["features"])})


def _ids(runs: list[Row]) -> str:
    return ", ".join(row["id"] for row in runs[:5])
