"""The findings of a lab: each is new, sustained, recovered or flaky."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

from qpipe.storage.nights import NightStore
from qpipe.storage.rows import FindingColumns, FindingKind, FindingRow, FindingState

SAME_BUILD = "run again on the same build"  # begins the evidence of such a change
FEWEST_SICK = 3  # series of a board that moved while their builds did not: then it is the board


@dataclass
class FindingBook:
    """The findings of a lab as one night changes them; several threads may."""

    lab: str
    night: str
    nights: Sequence[str]  # all of the lab, oldest first, with this one
    store: NightStore
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, kind: FindingKind, subject: str, metric: str = "") -> list[FindingRow]:
        """Return all findings of a subject, oldest first."""
        return [
            finding
            for finding in self.store.findings(self.lab)
            if (finding["kind"], finding["subject"], finding["metric"]) == (kind, subject, metric)
        ]

    def current(self, kind: FindingKind, subject: str, metric: str = "") -> FindingRow | None:
        """Return the finding of a subject that still holds; None where there is none.

        A level that somebody has acknowledged is normal, and what comes next is compared with it.
        What is broken stays so, acknowledged or not.
        """
        for finding in reversed(self.of(kind, subject, metric)):
            is_level = finding["after"] is not None
            is_accepted = finding["status"] == "closed" or (
                is_level and finding["status"] == "acknowledged"
            )
            if finding["state"] in ("new", "sustained") and not is_accepted:
                return finding
        return None

    def report(self, **columns: Unpack[FindingColumns]) -> None:
        """Record a finding of tonight.

        A change for the better is normal from now on: nobody has to acknowledge it.
        """
        row: FindingColumns = {
            "state": "new",
            "status": "open" if columns.get("is_regression") else "acknowledged",
            "beside": [],
            "reported": self.night,
            "newest": self.night,
            **columns,
        }
        with self.lock:
            self.store.add_finding(self.lab, **row)

    def sustain(self, finding: FindingRow) -> None:
        """Note that a finding still holds tonight; one that was found tonight stays new."""
        state: FindingState = "new" if finding["reported"] == self.night else "sustained"
        self.store.change_finding(finding["id"], state=state, newest=self.night)

    def recover(self, finding: FindingRow) -> None:
        """Note that what was found is over."""
        self.store.change_finding(
            finding["id"], state="recovered", status="closed", newest=self.night
        )

    def tonight(self) -> list[FindingRow]:
        """Return what this night says: what is new, still so, over or flaky.

        What was acknowledged or closed is left out, but on the night that found it.
        """
        rows = [row for row in self.store.findings(self.lab) if row["newest"] == self.night]
        return [row for row in rows if row["status"] == "open" or self.is_of_tonight(row)]

    def is_of_tonight(self, finding: FindingRow) -> bool:
        """Return whether a finding was found, or ended, tonight."""
        return finding["reported"] == self.night or finding["state"] == "recovered"


def in_lines(findings: Sequence[FindingRow]) -> list[FindingRow]:
    """Return findings with one line for a board whose series moved although their builds did not.

    It stands in the place of the first of them.
    """
    groups: dict[tuple[str, str, bool], list[FindingRow]] = {}
    for finding in findings:
        if finding["evidence"].startswith(SAME_BUILD):
            key = (finding["device"], finding["state"], finding["is_regression"])
            groups.setdefault(key, []).append(finding)
    sick = [group for group in groups.values() if len(group) >= FEWEST_SICK]
    first = {group[0]["id"]: _as_one(group) for group in sick}
    others = {finding["id"] for group in sick for finding in group[1:]}
    return [
        first.get(finding["id"], finding) for finding in findings if finding["id"] not in others
    ]


def _as_one(group: Sequence[FindingRow]) -> FindingRow:
    ratios = [
        finding["after"] / finding["before"]
        for finding in group
        if finding["before"] and finding["after"]
    ]
    device = group[0]["device"]
    beside = dict.fromkeys(line for finding in group for line in finding["beside"])
    return {
        **group[0],
        "text": f"{device}: {len(group)} series moved, their builds did not: from "
        f"{percent(min(ratios))} to {percent(max(ratios))}",
        "evidence": f"{SAME_BUILD}; the first: {group[0]['text']}",
        "beside": list(beside),
        "command": f"qpipe devices check {device}",
    }


def percent(ratio: float) -> str:
    """Return a ratio of values in words, as slower or faster by so many percent."""
    change = 100 * (ratio - 1)
    return f"{abs(change):.1f} % {'more' if change > 0 else 'less'}"
