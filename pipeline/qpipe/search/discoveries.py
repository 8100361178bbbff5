"""What a search has brought: which of its schemes no scheme of the recipe dominates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qpipe.compare.pareto import dominates, judged_rows
from qpipe.storage.results import Store


@dataclass(frozen=True)
class Discovery:
    """A scheme that a search found, on a device, against those of the recipe."""

    scheme: str
    device: str
    dominated_by: Sequence[str]  # schemes of the recipe
    dominates: Sequence[str]

    def to_text(self) -> str:
        """Return it as a line."""
        if self.dominated_by:
            return f"{self.scheme}: dominated by {', '.join(self.dominated_by)} on {self.device}"
        text = f"{self.scheme}: no scheme of the recipe dominates it on {self.device}"
        return f"{text}; it dominates {', '.join(self.dominates)}" if self.dominates else text


def discoveries(store: Store, run: str, recipe_schemes: Collection[str]) -> list[Discovery]:
    """Compare the schemes on the front that the recipe does not have with those that it has."""
    run_row = store.run(run)
    objectives = run_row["objectives"]
    margins = run_row["margins"]
    judged = judged_rows(store, run_row["id"])
    on_front = {row.candidate.key for row in judged if row.row["on_front"]}
    rows = [row.candidate for row in judged]
    complete = [row for row in rows if objectives.keys() <= row.metrics.keys()]
    found = []
    for row in complete:
        if row.scheme in recipe_schemes or row.key not in on_front:
            continue
        rivals = [
            rival
            for rival in complete
            if rival.scheme in recipe_schemes and rival.device == row.device
        ]
        found.append(
            Discovery(
                row.scheme,
                row.device,
                [rival.scheme for rival in rivals if dominates(rival, row, objectives, margins)],
                [rival.scheme for rival in rivals if dominates(row, rival, objectives, margins)],
            )
        )
    return found
