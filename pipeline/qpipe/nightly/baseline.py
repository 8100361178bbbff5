"""Which nights a series is compared with, after what was found before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qpipe.storage.rows import FindingRow


@dataclass(frozen=True)
class Baseline:
    """The nights that count as normal."""

    since: str = ""
    excluded: frozenset[str] = frozenset()

    def admits(self, night: str) -> bool:
        """Return whether a night counts as normal."""
        return night >= self.since and night not in self.excluded


def baseline(findings: Iterable[FindingRow], nights: Sequence[str]) -> Baseline:
    """Return the baseline of what these findings are of; `nights` are all, oldest first.

    A level that somebody has acknowledged, or closed, is normal from its first night on. The nights
    of one that has gone by itself are left out.
    """
    since = ""
    excluded: set[str] = set()
    for finding in findings:
        if finding["state"] == "flaky":
            continue
        if finding["state"] == "recovered":
            period = (night for night in nights if finding["start"] <= night < finding["newest"])
            excluded.update(period)
        elif finding["status"] != "open":
            since = max(since, finding["start"])
    return Baseline(since, frozenset(excluded))


def is_gone(finding: FindingRow, value: float) -> bool:
    """Return whether a value is nearer to the level before a finding than to that after it."""
    before = finding["before"]
    after = finding["after"]
    if before is None or after is None:
        return False
    is_positive = min(before, after) > 0
    middle = (before * after) ** 0.5 if is_positive else (before + after) / 2
    return (value < middle) == (before < middle)
