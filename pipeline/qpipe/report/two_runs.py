"""Two runs of a database, compared row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpipe.compare.device_changes import differing_environments
from qpipe.compare.json_rows import ComparedRow
from qpipe.compare.runs import compared
from qpipe.storage.results import Store
from qpipe.storage.rows import RunRow


@dataclass(frozen=True)
class TwoRuns:
    """Two runs and what differs between them."""

    before: RunRow
    after: RunRow
    rows: Sequence[ComparedRow]
    environment: Sequence[str]  # what differs in the conditions
    unreachable: Mapping[str, Mapping[str, str]]  # run -> device -> why it was left out

    @property
    def conditions(self) -> list[str]:
        """A line for whatever differs in the conditions, and for each device not reached."""
        lines = [f"measured under different conditions: {line}" for line in self.environment]
        for run, reasons in self.unreachable.items():
            lines += [f"not reached in {run}: {reason}" for reason in reasons.values()]
        return lines


def read_two_runs(store: Store, before: RunRow, after: RunRow) -> TwoRuns:
    """Compare two runs of a database."""
    ids = (before["id"], after["id"])
    return TwoRuns(
        before,
        after,
        compared(store, *ids),
        differing_environments(store, *ids),
        {run: store.unreachable(run) for run in ids},
    )
