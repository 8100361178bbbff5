"""The nights of labs in the store: their runs, their canaries, and what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Unpack

from qpipe.errors import QpipeError
from qpipe.storage.database import table
from qpipe.storage.results import Store
from qpipe.storage.rows import (
    CanaryRow,
    FindingColumns,
    FindingRow,
    NightMeasurementRow,
    NightRow,
    NightRunRow,
    encode,
    timestamp,
)


class NightStore(Store):
    """The results in a database, with those of nights."""

    # ---- nights and their runs

    def start_night(self, lab: str, night: str, started: datetime) -> None:
        """Record that a night begins."""
        row = {"lab": lab, "night": night, "started": timestamp(started), "missed": []}
        self._write("nights", ["lab", "night"], [row])

    def finish_night(self, lab: str, night: str, missed: Sequence[str], now: datetime) -> None:
        """Record that a night is over, with what was not done."""
        row = {"lab": lab, "night": night, "missed": list(missed), "finished": timestamp(now)}
        with self._transaction() as db:
            table(db, "nights").update((lab, night), encode(row))

    def nights(self, lab: str) -> list[NightRow]:
        """Return the nights of a lab, oldest first."""
        query = "SELECT * FROM nights WHERE lab = ? ORDER BY started, night"
        return self._read(NightRow, query, lab)

    def labs(self) -> list[str]:
        """Return the labs that have nights."""
        rows = self._read(NightRow, "SELECT * FROM nights ORDER BY started")
        return list(dict.fromkeys(row["lab"] for row in rows))

    def record_night_run(self, lab: str, night: str, recipe: str, run: str) -> None:
        """Record which run of a recipe belongs to a night."""
        row = {"lab": lab, "night": night, "recipe": recipe, "run": run}
        self._write("night_runs", ["lab", "night", "recipe"], [row])

    def night_runs(self, lab: str, night: str) -> dict[str, str]:
        """Return the runs of a night by recipe."""
        query = "SELECT * FROM night_runs WHERE lab = ? AND night = ? ORDER BY rowid"
        return {row["recipe"]: row["run"] for row in self._read(NightRunRow, query, lab, night)}

    def night_measurements(
        self, lab: str, nights: Sequence[str], metrics: Sequence[str] | None = None
    ) -> list[NightMeasurementRow]:
        """Return what was measured of these metrics, or of all, in nights, oldest first."""
        query = (
            "SELECT measurements.*, night FROM nights JOIN night_runs USING (lab, night) "
            "JOIN measurements USING (run) "
            "WHERE lab = ?1 AND night IN (SELECT value FROM json_each(?2)) "
            "AND (?3 IS NULL OR metric IN (SELECT value FROM json_each(?3))) "
            "ORDER BY nights.started, night, measurements.rowid"
        )
        chosen = None if metrics is None else json.dumps(list(metrics))
        return self._read(NightMeasurementRow, query, lab, json.dumps(list(nights)), chosen)

    # ---- canaries

    def record_canary(self, row: CanaryRow) -> None:
        """Record what the canary measured, in place of what it measured before that night."""
        self._write("canaries", ["lab", "night", "device"], [dict(row)])

    def canaries(self, lab: str, device: str | None = None) -> list[CanaryRow]:
        """Return what the canary measured, oldest first."""
        query = (
            "SELECT canaries.* FROM canaries JOIN nights USING (lab, night) WHERE lab = ?1 "
            "AND (?2 IS NULL OR device = ?2) ORDER BY started, night, device"
        )
        return self._read(CanaryRow, query, lab, device)

    # ---- findings

    def add_finding(self, lab: str, **columns: Unpack[FindingColumns]) -> int:
        """Record a finding and return its number."""
        with self._transaction() as db:
            number = table(db, "findings").insert(encode({"lab": lab, **columns})).last_pk
            assert isinstance(number, int)
            return number

    def change_finding(self, number: int, **columns: Unpack[FindingColumns]) -> None:
        """Change columns of a finding."""
        with self._transaction() as db:
            table(db, "findings").update(number, encode(dict(columns)))

    def findings(self, lab: str | None = None) -> list[FindingRow]:
        """Return the findings of a lab, or of all, oldest first."""
        query = "SELECT * FROM findings WHERE (?1 IS NULL OR lab = ?1) ORDER BY id"
        return self._read(FindingRow, query, lab)

    def finding(self, number: int) -> FindingRow:
        """Return a finding by its number; raise QpipeError where there is none."""
        rows = self._read(FindingRow, "SELECT * FROM findings WHERE id = ?", number)
        if not rows:
            numbers = ", ".join(str(row["id"]) for row in self.findings()) or "none yet"
            raise QpipeError(f"finding {number}: there is no such finding; there is {numbers}")
        return rows[0]

    # ---- age

    def drop_raw_values(self, before: datetime) -> None:
        """Drop the raw values of times that were measured before a moment.

        Their medians and intervals stay, and the conditions of their rounds. Scores of samples stay
        too: later nights are paired with them.
        """
        where = (
            "measurement IN (SELECT id FROM measurements WHERE raw = 'rounds' AND measured_at < ?)"
        )
        with self._transaction() as db:
            table(db, "values").delete_where(where, [timestamp(before)])
