"""What has changed tonight in the series of a lab, before anything is confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpipe.compare.runs import paired_change
from qpipe.nightly.baseline import Baseline, is_gone
from qpipe.nightly.change_points import Change, newest_change
from qpipe.nightly.series import Point, Series
from qpipe.storage.results import Store
from qpipe.storage.rows import FindingRow

QUIET_NIGHTS = 7  # in which a series is not told again to have changed, where nothing confirms it
EXACT = 1e-9  # relative: numbers such as sizes repeat to the last digit


@dataclass(frozen=True)
class ChangedSeries:
    """A series that seems to have changed its level."""

    series: Series
    change: Change
    old: Point  # the newest night of the old level
    start: Point  # the first night of the new one
    evidence: str = ""  # where it needs no rerun: what shows it

    @property
    def is_regression(self) -> bool:
        """Whether it is for the worse."""
        is_rise = self.change.after > self.change.before
        return is_rise == (self.series.newest.row["better"] == "min")


def find_change(
    series: Series, baseline: Baseline, store: Store, *, canary_noise: float = 0.0
) -> ChangedSeries | None:
    """Return the change of a series whose newest night is tonight; None where there is none.

    Times are compared as a series; scores with those of the last good night on the same samples;
    numbers that repeat exactly with the last one.
    """
    points = [point for point in series.comparable() if baseline.admits(point.night)]
    if len(points) < 2 or points[-1] is not series.newest:
        return None
    row = series.newest.row
    if row["raw"] != "rounds":
        return _changed_score(series, points, store)
    if row["low"] is None:
        return _changed_number(series, points)
    return _changed_level(series, points, canary_noise)


def _changed_level(
    series: Series, points: Sequence[Point], canary_noise: float
) -> ChangedSeries | None:
    change = newest_change([point.value for point in points], canary_noise=canary_noise)
    if change is None:
        return None
    start = change.start
    return ChangedSeries(series, change, points[start - 1], points[start])


def _changed_score(series: Series, points: Sequence[Point], store: Store) -> ChangedSeries | None:
    old = points[-2]
    new = points[-1]
    if old.value == new.value:
        return None
    interval, verdict = paired_change(store, old.row, new.row)
    if verdict == "tied":
        return None
    low, high = interval
    evidence = f"paired over {new.row['n']} samples: by {low:+.4g} to {high:+.4g} (95 %)"
    return _immediate(series, old, new, evidence)


def _changed_number(series: Series, points: Sequence[Point]) -> ChangedSeries | None:
    old = points[-2]
    new = points[-1]
    if abs(new.value - old.value) <= EXACT * abs(old.value):
        return None
    return _immediate(series, old, new, "it repeats exactly from night to night")


def _immediate(series: Series, old: Point, new: Point, evidence: str) -> ChangedSeries:
    change = Change(len(series.points) - 1, old.value, new.value, 0.0, 1, 1)
    return ChangedSeries(series, change, old, new, evidence)


def was_reported(findings: Sequence[FindingRow], nights: Sequence[str]) -> bool:
    """Return whether a change of a series that was not confirmed was reported of late."""
    recent = nights[-QUIET_NIGHTS:]
    return any(
        finding["state"] == "flaky" and finding["reported"] in recent for finding in findings
    )


def state_of(finding: FindingRow, series: Series) -> str | None:
    """Return what has become of an open finding: sustained or recovered; None where none can tell.

    Tonight is the newest night of the series.
    """
    newest = series.newest
    if newest.problem:
        return None
    return "recovered" if is_gone(finding, newest.value) else "sustained"
