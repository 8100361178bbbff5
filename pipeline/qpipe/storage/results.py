"""The store of all runs: what each step did, what was measured, and the verdicts on it.

Any SQL client reads the file. Two files merge by union: run ids are globally unique, the id of a
measurement is made of its run, coordinates and metric, and each measurement carries the digests of
all that it depends on.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal, Unpack

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from qpipe.digests import digest_json
from qpipe.errors import QpipeError
from qpipe.storage.database import Connection, Database, table, upsert
from qpipe.storage.rows import (
    COORDINATES,
    AttemptRow,
    DeviceRow,
    EventRow,
    Goal,
    HealthRow,
    LeaseRow,
    MeasurementFacts,
    MeasurementRow,
    RoundRow,
    RunRow,
    StepRow,
    TagRow,
    TrainingRow,
    Verdict,
    VerdictRow,
    coordinate_columns,
    encode,
    measurement_columns,
    measurement_id,
    round_rows,
    timestamp,
    value_rows,
)
from qpipe.types import Capabilities, Measurement

EndState = Literal["done", "partial", "failed", "interrupted"]
# the coordinates of a row, its measurements, and what these depend on
MeasuredRow = tuple[Mapping[str, str], Iterable[Measurement], MeasurementFacts]

IDS_IN_A_MESSAGE = 5


class _FailureCount(TypedDict):
    run: str
    failure: str | None
    number: int


class _MeasurementPlace(TypedDict):
    id: str
    step: str | None
    device: str


class _RawValue(TypedDict):
    round: int
    value: float


class _RunDevice(TypedDict):
    device: str
    capabilities: dict[str, Any]


class _StoredDevice(_RunDevice):
    name: str
    kind: str
    fingerprint: str
    checked: str


class _UnreachableDevice(TypedDict):
    device: str
    reason: str


class _DeviceName(TypedDict):
    name: str


class Store(Database):
    """The results in a database."""

    # ---- runs and their tags

    def new_run(
        self,
        recipe: str,
        *,
        recipe_path: str,
        recipe_digest: str,
        recipe_text: str,
        versions: Mapping[str, str],
        request: Mapping[str, object] | None = None,
        objectives: Mapping[str, Goal] | None = None,
        margins: Mapping[str, float] | None = None,
    ) -> str:
        """Record a run that begins now and return its id, which sorts by time.

        An id is such as 20261123-142501-ab12cd. `objectives` and `margins` are the recipe's: a run
        that was interrupted is judged by them when it is read.
        """
        now = datetime.now(UTC)
        run = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        row = {
            "id": run,
            "recipe": recipe,
            "recipe_path": recipe_path,
            "recipe_digest": recipe_digest,
            "recipe_text": recipe_text,
            "started": timestamp(now),
            "state": "running",
            "versions": versions,
            "request": request or {},
            "objectives": objectives or {},
            "margins": margins or {},
            "host": platform.node(),
        }
        self._write("runs", ["id"], [row])
        return run

    def finish_run(self, run: str, state: EndState) -> None:
        """Record that a run ended, and its running steps with it: these are pending again."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET state = ?, finished = ? WHERE id = ?", [state, timestamp(), run]
            )
            db.execute(
                "UPDATE steps SET state = 'pending' WHERE run = ? AND state = 'running'", [run]
            )
            _interrupt_attempts(db, run)
            _end_leases(db, run)

    def resume_run(
        self,
        run: str,
        *,
        objectives: Mapping[str, Goal] | None = None,
        margins: Mapping[str, float] | None = None,
        request: Mapping[str, object] | None = None,
    ) -> None:
        """Record that a run goes on, with what the recipe and the command now say.

        Its verdicts are dropped, as they cover all its rows. Its measurements stay until their own
        steps give others: not every step is executed again.
        """
        arguments = {"objectives": objectives, "margins": margins, "request": request}
        changes = {name: value for name, value in arguments.items() if value is not None}
        with self._transaction() as db:
            table(db, "verdicts").delete_where("run = ?", [run])
            table(db, "runs").update(run, encode({"state": "running", "finished": None, **changes}))
            _interrupt_attempts(db, run)
            _end_leases(db, run)

    def unfinished_run(self, recipe_digest: str) -> str | None:
        """Return the newest run of this expanded recipe, unless all of it is done."""
        rows = self._read(
            RunRow,
            "SELECT * FROM runs WHERE recipe_digest = ? ORDER BY started DESC LIMIT 1",
            recipe_digest,
        )
        if not rows or rows[0]["state"] == "done":
            return None
        return rows[0]["id"]

    def run(self, run: str) -> RunRow:
        """Return a run by its id or the beginning of it, else the newest with that tag.

        Raise QpipeError where several ids begin so, where an id and another run's tag match, or
        where nothing does.
        """
        by_id = self._read(
            RunRow,
            "SELECT * FROM runs WHERE substr(id, 1, ?) = ? ORDER BY started DESC",
            len(run),
            run,
        )
        if any(row["id"] == run for row in by_id):
            return by_id[0]
        by_tag = self.runs(tag=run)
        if by_id and by_tag and (len(by_id) > 1 or by_id[0] != by_tag[0]):
            both = f"{_ids(by_id)} begins so, and {_ids(by_tag)} has that tag"
            raise QpipeError(f"run '{run}': {both}; give more of the id")
        if len(by_id) > 1:
            raise QpipeError(f"run '{run}': {len(by_id)} runs begin so; there is {_ids(by_id)}")
        if by_id:
            return by_id[0]
        if by_tag:
            return by_tag[0]
        raise self._no_such_run(run)

    def _no_such_run(self, run: str) -> QpipeError:
        runs = self.runs()
        ids = _ids(runs) if runs else "none yet"
        tags = sorted({tag for run_tags in self.tags().values() for tag in run_tags})
        valid = f"{ids}, and the tags {', '.join(tags)}" if tags else ids
        return QpipeError(f"run '{run}': there is no such run; there is {valid}")

    def runs(self, recipe: str | None = None, *, tag: str | None = None) -> list[RunRow]:
        """Return all runs, or those of a recipe's name, or with a tag, newest first."""
        return self._read(
            RunRow,
            "SELECT * FROM runs WHERE (?1 IS NULL OR recipe = ?1) "
            "AND (?2 IS NULL OR id IN (SELECT run FROM tags WHERE tag = ?2)) "
            "ORDER BY started DESC, id DESC",
            recipe,
            tag,
        )

    def latest_run(self, recipe: str | None = None) -> RunRow | None:
        """Return the newest run, or the newest of a recipe's name; None where there is none."""
        runs = self.runs(recipe)
        return runs[0] if runs else None

    def tags(self) -> dict[str, list[str]]:
        """Return the tags of each run that has any."""
        tags: dict[str, list[str]] = {}
        for row in self._read(TagRow, "SELECT run, tag FROM tags ORDER BY run, tag"):
            tags.setdefault(row["run"], []).append(row["tag"])
        return tags

    def tag(self, run: str, tags: Iterable[str]) -> None:
        """Add tags to those of a run."""
        self._write("tags", ["run", "tag"], [{"run": run, "tag": tag} for tag in tags])

    def untag(self, run: str, tags: Iterable[str]) -> None:
        """Remove tags from a run, where it has them."""
        with self._transaction() as db:
            for tag in tags:
                table(db, "tags").delete_where("run = ? AND tag = ?", [run, tag])

    # ---- steps and attempts

    def record_step(self, run: str, step: str, **columns: object) -> None:
        """Record columns of `steps`; what was recorded before in other columns stays."""
        self.record_steps(run, [{"step": step, **columns}])

    def record_steps(self, run: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Record several steps, all or none: `step` and the same columns of `steps` for each."""
        self._write("steps", ["run", "step"], [{"run": run, **row} for row in rows])

    def steps(self, run: str) -> list[StepRow]:
        """Return the steps of a run in the order in which they were first recorded."""
        return self._read(StepRow, "SELECT * FROM steps WHERE run = ? ORDER BY rowid", run)

    def record_attempt(self, run: str, step: str, attempt: int, **columns: object) -> None:
        """Record columns of `attempts`, and the number of attempts at the step."""
        step_row = {"run": run, "step": step, "attempts": attempt}
        attempt_row = {"run": run, "step": step, "attempt": attempt, **columns}
        with self._transaction() as db:
            upsert(db, "steps", ["run", "step"], [step_row])
            upsert(db, "attempts", ["run", "step", "attempt"], [attempt_row])

    def attempts(self, run: str, step: str) -> list[AttemptRow]:
        """Return every attempt at a step, also those before the run was continued."""
        return self._read(
            AttemptRow,
            "SELECT * FROM attempts WHERE run = ? AND step = ? ORDER BY attempt",
            run,
            step,
        )

    def record_training(self, run: str, step: str, curve: Sequence[object] | None) -> None:
        """Record how training went in a step, or with None that it did not train."""
        with self._transaction() as db:
            db.execute("DELETE FROM training_curves WHERE run = ? AND step = ?", [run, step])
            if curve is not None:
                row = encode({"run": run, "step": step, "curve": curve})
                table(db, "training_curves").insert(row)

    def training(self, run: str) -> list[TrainingRow]:
        """Return how training went in each step of a run that trained, in the steps' order."""
        query = (
            "SELECT step, model, scheme, curve FROM training_curves JOIN steps USING (run, step) "
            "WHERE run = ? ORDER BY steps.rowid"
        )
        return self._read(TrainingRow, query, run)

    def failures(self) -> dict[str, dict[str, int]]:
        """Return the number of failed steps of each run, by the type of failure."""
        counts: dict[str, dict[str, int]] = {}
        query = (
            "SELECT run, failure, count(*) AS number FROM steps "
            "WHERE state = 'failed' GROUP BY run, failure"
        )
        for row in self._read(_FailureCount, query):
            failure = row["failure"] or "bug"
            counts.setdefault(row["run"], {})[failure] = row["number"]
        return counts

    # ---- measurements

    def record_measurements(
        self,
        run: str,
        coordinates: Mapping[str, str],
        measurements: Iterable[Measurement],
        **facts: Unpack[MeasurementFacts],
    ) -> None:
        """Record the measurements of one row with their raw values, all or none.

        A metric that the row has already is replaced. `coordinates` are model, scheme, build and
        device, and whatever a sweep adds.
        """
        with self._transaction():
            self._record_row(run, coordinates, measurements, facts)

    def replace_measurements(self, run: str, step: str, rows: Iterable[MeasuredRow]) -> None:
        """Record what a step measured and drop what it measured before, all or nothing.

        Measurements of two attempts are never mixed.
        """
        with self._transaction():
            self._delete_measurements("run = ? AND step = ?", [run, step])
            for coordinates, measurements, facts in rows:
                self._record_row(run, coordinates, measurements, {**facts, "step": step})

    def forget_measurements(self, run: str, steps: Iterable[str]) -> None:
        """Drop what these steps measured, as they have changed since."""
        with self._transaction():
            for step in steps:
                self._delete_measurements("run = ? AND step = ?", [run, step])

    def forget_other_measurements(
        self, run: str, *, steps: Collection[str], unreachable_devices: Collection[str]
    ) -> None:
        """Drop what other steps than these measured.

        What was measured on unreachable devices stays: their steps are not planned.
        """
        query = "SELECT id, step, device FROM measurements WHERE run = ?"
        with self._transaction() as db:
            for row in list(db.query(query, [run])):
                if row["step"] not in steps and row["device"] not in unreachable_devices:
                    self._delete_measurements("id = ?", [row["id"]])

    def _record_row(
        self,
        run: str,
        coordinates: Mapping[str, str],
        measurements: Iterable[Measurement],
        facts: MeasurementFacts,
    ) -> None:
        """Record the measurements of one row, in the open transaction."""
        valid_facts = MeasurementFacts.__annotations__.keys()
        unknown_facts = sorted(facts.keys() - valid_facts)
        if unknown_facts:
            raise TypeError(
                f"facts of a measurement are {', '.join(valid_facts)}, "
                f"not {', '.join(unknown_facts)}"
            )
        place = {"run": run, **coordinate_columns(coordinates)}
        for measurement in measurements:
            id_ = measurement_id(place, measurement.metric)
            row = {
                "id": id_,
                **place,
                **measurement_columns(place, measurement),
                **facts,
                "measured_at": timestamp(),
            }
            upsert(self._db, "measurements", ["id"], [row])
            self._record_raw_values(id_, measurement)

    def _record_raw_values(self, id_: str, measurement: Measurement) -> None:
        for name in ("values", "rounds"):
            table(self._db, name).delete_where("measurement = ?", [id_])
        values = value_rows(id_, measurement.rounds)
        upsert(self._db, "values", ["measurement", "round", "position"], values)
        rounds = round_rows(id_, measurement.conditions)
        upsert(self._db, "rounds", ["measurement", "round"], rounds)

    def _delete_measurements(self, where: str, parameters: Sequence[str]) -> None:
        """Delete measurements with their raw values, in the open transaction."""
        table(self._db, "measurements").delete_where(where, parameters)

    def measurements(self, run: str) -> list[MeasurementRow]:
        """Return the measurements of a run in the order in which they were first recorded."""
        return self._read(
            MeasurementRow, "SELECT * FROM measurements WHERE run = ? ORDER BY rowid", run
        )

    def values(self, measurement: str) -> list[list[float]]:
        """Return the raw values of a measurement by its id, round by round."""
        rounds: dict[int, list[float]] = {}
        query = 'SELECT round, value FROM "values" WHERE measurement = ? ORDER BY round, position'
        for row in self._read(_RawValue, query, measurement):
            rounds.setdefault(row["round"], []).append(row["value"])
        return list(rounds.values())

    def rounds(self, measurement: str) -> list[RoundRow]:
        """Return the rounds of a measurement by its id."""
        return self._read(
            RoundRow, "SELECT * FROM rounds WHERE measurement = ? ORDER BY round", measurement
        )

    # ---- verdicts

    def record_verdicts(
        self, run: str, verdicts: Iterable[Verdict], *, judged_on: str = ""
    ) -> None:
        """Record the verdicts of a run in place of those that it had.

        `judged_on` is what `verdict_basis` returned before the run was judged: nothing is recorded
        where the run has measured something else meanwhile.
        """
        rows = [
            {"extra": {}, **verdict, "run": run, "judged_on": judged_on} for verdict in verdicts
        ]
        with self._transaction() as db:
            if judged_on and judged_on != _verdict_basis(db, run):
                return
            table(db, "verdicts").delete_where("run = ?", [run])
            upsert(db, "verdicts", ["run", *COORDINATES, "extra"], rows)

    def verdict_basis(self, run: str) -> str:
        """Return a digest of what verdicts on a run are made of: measurements and objectives."""
        with self._transaction("DEFERRED") as db:
            return _verdict_basis(db, run)

    def verdicts(self, run: str) -> list[VerdictRow]:
        """Return the verdicts of a run in the order in which they were recorded."""
        return self._read(VerdictRow, "SELECT * FROM verdicts WHERE run = ? ORDER BY rowid", run)

    # ---- devices

    def save_device(self, name: str, kind: str, capabilities: Capabilities) -> None:
        """Record what a device reported at its check, now."""
        row = {
            "name": name,
            "kind": kind,
            "capabilities": asdict(capabilities),
            "fingerprint": capabilities.fingerprint,
            "checked": timestamp(),
        }
        self._write("devices", ["name"], [row])

    def device(self, name: str) -> DeviceRow | None:
        """Return a device at its last check; None where it was never checked."""
        rows = self._read(_StoredDevice, "SELECT * FROM devices WHERE name = ?", name)
        if not rows:
            return None
        row = rows[0]
        return {
            "name": row["name"],
            "kind": row["kind"],
            "capabilities": self._capabilities(row["capabilities"]),
            "fingerprint": row["fingerprint"],
            "checked": row["checked"],
        }

    def record_devices(self, run: str, devices: Mapping[str, Capabilities]) -> None:
        """Record what the devices that a run reached report, now."""
        rows = [
            {"run": run, "device": name, "capabilities": asdict(capabilities)}
            for name, capabilities in devices.items()
        ]
        self._write("run_devices", ["run", "device"], rows)

    def capabilities(self, run: str) -> dict[str, Capabilities]:
        """Return what each device of a run reported when the run measured it.

        A device that was never reached is left out.
        """
        query = "SELECT device, capabilities FROM run_devices WHERE run = ? ORDER BY rowid"
        rows = self._read(_RunDevice, query, run)
        return {row["device"]: self._capabilities(row["capabilities"]) for row in rows}

    def record_unreachable(self, run: str, reasons: Mapping[str, str]) -> None:
        """Record which devices a run left out, and why, in place of those that it left out before.

        A run that is continued may reach what it did not reach at first.
        """
        rows = [{"run": run, "device": name, "reason": reason} for name, reason in reasons.items()]
        with self._transaction() as db:
            table(db, "unreachable_devices").delete_where("run = ?", [run])
            upsert(db, "unreachable_devices", ["run", "device"], rows)

    def unreachable(self, run: str) -> dict[str, str]:
        """Return why a run left out each device that it could not reach."""
        query = "SELECT device, reason FROM unreachable_devices WHERE run = ? ORDER BY rowid"
        return {row["device"]: row["reason"] for row in self._read(_UnreachableDevice, query, run)}

    def device_names(self) -> list[str]:
        """Return the devices that were checked, or that an event is recorded of."""
        rows = self._read(
            _DeviceName,
            "SELECT name FROM devices UNION SELECT device FROM device_events ORDER BY 1",
        )
        return [row["name"] for row in rows]

    def record_event(self, device: str, **columns: object) -> None:
        """Record that something happened to a device, now, as columns of `device_events`."""
        with self._transaction() as db:
            table(db, "device_events").insert({"device": device, "at": timestamp(), **columns})

    def events(self, device: str) -> list[EventRow]:
        """Return all that happened to a device, oldest first."""
        return self._read(
            EventRow, "SELECT * FROM device_events WHERE device = ? ORDER BY id", device
        )

    def record_lease(self, run: str, device: str, step: str) -> None:
        """Record that a run has the lease of a device for a step, from now on."""
        with self._transaction() as db:
            query = "run = ? AND device = ? AND until IS NULL"
            current = list(table(db, "leases").rows_where(query, [run, device]))
            if current:
                table(db, "leases").update(current[0]["id"], {"step": step})
            else:
                row = {"run": run, "device": device, "step": step, "since": timestamp()}
                table(db, "leases").insert(row)

    def end_lease(self, run: str, device: str) -> None:
        """Record that a run gave back the lease of a device, now."""
        with self._transaction() as db:
            _end_leases(db, run, device)

    def leases(self, device: str) -> list[LeaseRow]:
        """Return the leases of a device by the runs of this file, oldest first."""
        return self._read(LeaseRow, "SELECT * FROM leases WHERE device = ? ORDER BY id", device)

    def _capabilities(self, columns: Mapping[str, Any]) -> Capabilities:
        self._check_value("capabilities", Capabilities, columns)
        features = tuple(columns["features"])
        return Capabilities(**{**columns, "features": features})

    def health(self, device: str) -> HealthRow | None:
        """Return the health of a device; None where it was never part of a run."""
        rows = self._read(HealthRow, "SELECT * FROM device_health WHERE device = ?", device)
        return rows[0] if rows else None


def _verdict_basis(db: Connection, run: str) -> str:
    objectives = db.query("SELECT objectives, margins FROM runs WHERE id = ?", [run])
    measurements = db.query(
        "SELECT id, value, measured_at FROM measurements WHERE run = ? ORDER BY id", [run]
    )
    return digest_json([list(objectives), list(measurements)])


def _interrupt_attempts(db: Connection, run: str) -> None:
    """Mark the running attempts of a run as interrupted, in the open transaction."""
    db.execute(
        "UPDATE attempts SET state = 'interrupted' WHERE run = ? AND state = 'running'", [run]
    )


def _end_leases(db: Connection, run: str, device: str | None = None) -> None:
    """Note the end of leases of a run that have none, in the open transaction."""
    db.execute(
        "UPDATE leases SET until = ?1 WHERE run = ?2 AND until IS NULL "
        "AND (?3 IS NULL OR device = ?3)",
        [timestamp(), run, device],
    )


def _ids(runs: Sequence[RunRow]) -> str:
    return ", ".join(row["id"] for row in runs[:IDS_IN_A_MESSAGE])
