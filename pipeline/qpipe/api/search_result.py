"""What a search for schemes has brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.api.finished_runs import Run
from qpipe.errors import shown

if TYPE_CHECKING:
    from qpipe.search.discoveries import Discovery


@dataclass(frozen=True)
class SearchResult:
    """The run that measured the best that a search found, and what of it is on the front."""

    run: Run
    recipe: Path  # with what was found
    discoveries: Sequence[Discovery]

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe search --json` prints it: its schema has a version."""
        from qpipe.report.json_documents import SEARCH_SCHEMA

        return {
            "schema": SEARCH_SCHEMA,
            "recipe": shown(self.recipe),
            "run": self.run.to_dict(),
            "discoveries": [{**vars(discovery)} for discovery in self.discoveries],
        }
