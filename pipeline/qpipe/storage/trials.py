"""The trials of searches in the store."""

from __future__ import annotations

from qpipe.storage.results import Store
from qpipe.storage.rows import TrialRow


class TrialStore(Store):
    """The results in a database, with the trials of searches."""

    def record_trial(self, row: TrialRow) -> None:
        """Record a trial."""
        self._write("trials", ["search", "number"], [dict(row)])

    def trials(self, search: str) -> list[TrialRow]:
        """Return the trials of a search in their order."""
        query = "SELECT * FROM trials WHERE search = ? ORDER BY number"
        return self._read(TrialRow, query, search)
