"""The lines below a Pareto table: which rows are tied, and the notes on rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpipe.compare.json_rows import ParetoRow

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
# topics of notes about the machine rather than a scheme: those alike are told once for all rows
MACHINE_TOPICS = frozenset(
    {"doubt", "noise", "rounds", "warmup", "precision", "unlocked", "too_warm", "levels"}
)


@dataclass(frozen=True)
class Note:
    """A note on a row."""

    row_name: str
    topic: str
    text: str

    @property
    def group(self) -> tuple[str, str]:
        """What notes that are told together have in common.

        Notes about the machine: the topic and the text but for its numbers. Others: topic and row.
        """
        if self.topic in MACHINE_TOPICS:
            return self.topic, NUMBER.sub("", self.text)
        return self.topic, self.row_name


def note_lines(rows: Sequence[ParetoRow]) -> list[str]:
    """Return the lines below the table of these rows, indented; none where there are no notes."""
    groups: dict[tuple[str, str], list[Note]] = {}
    for row in rows:
        for topic, text in row["notes"].items():
            note = Note(row["name"], topic, text)
            groups.setdefault(note.group, []).append(note)
    lines = _tie_lines({row["name"]: row["ties"] for row in rows})
    lines += [_describe_notes(notes, len(rows)) for notes in groups.values()]
    if not lines:
        return []
    return ["", *(f"  {line}" for line in lines)]


def _describe_notes(notes: Sequence[Note], row_count: int) -> str:
    """Return the line for notes of one group."""
    subject = notes[0].row_name
    if len(notes) == row_count > 1:
        subject = f"all {row_count}"
    elif len(notes) > 1:
        subject += f" (and {len(notes) - 1} more)"
    link = " is" if notes[0].topic == "slower" else ":"
    return f"{subject}{link} {_merge_texts([note.text for note in notes])}"


def _merge_texts(texts: Sequence[str]) -> str:
    """Merge texts that differ only in their numbers: each becomes a range, lowest to highest."""
    merged = []
    split_texts = [NUMBER.split(text) for text in texts]
    for position, parts in enumerate(zip(*split_texts, strict=True)):
        is_number = position % 2 == 1
        if is_number and len(set(parts)) > 1:
            low = min(parts, key=float)
            high = max(parts, key=float)
            merged.append(low if low == high else f"{low} to {high}")
        else:
            merged.append(parts[0])
    return "".join(merged)


def _tie_lines(ties: Mapping[str, Sequence[str]]) -> list[str]:
    """Return who is tied with whom: one line where that is mutual, for ties are not transitive."""
    lines = []
    for name, tied_names in ties.items():
        if not tied_names:
            continue
        circle = {name, *tied_names}
        if all({other, *ties.get(other, ())} == circle for other in tied_names):
            *first, last = [row_name for row_name in ties if row_name in circle]
            lines.append(f"{', '.join(first)} and {last} are tied")
        else:
            lines.append(f"{name} is tied with {', '.join(tied_names)}")
    return list(dict.fromkeys(lines))
