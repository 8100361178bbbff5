"""What is told below a table: ties, and what else to know of its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
# what befalls a machine rather than a scheme, by topic of the notes
SHARED = ("doubt", "noise", "rounds", "warmup", "precision", "unlocked", "too_warm")


def noted(group: list[Row]) -> list[str]:
    """What else to know of the rows, a line a topic and row; what all of a machine share, and ties, once."""
    found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in group:
        for topic, text in row["notes"].items():
            # rows of which the same is said, but for its numbers
            kind = (topic, NUMBER.sub("", text)) if topic in SHARED else (topic, row["name"])
            found.setdefault(kind, []).append((row["name"], text))
    lines = _tied({row["name"]: row["ties"] for row in group})
    for (topic, _), told in found.items():
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        whose = f"all {len(group)}" if len(told) == len(group) > 1 else f"{told[0][0]}{more}"
        lines.append(
            f"{whose}{' is' if topic == 'slower' else ':'} {_ranging([text for _, text in told])}"
        )
    return ["", *(f"  {line}" for line in lines)] if lines else []


def _ranging(texts: Sequence[str]) -> str:
    """One text for those that differ in numbers alone: from the least to the greatest of each."""
    said = []
    for number, parts in enumerate(zip(*(NUMBER.split(text) for text in texts), strict=True)):
        least, most = (
            (min(parts, key=float), max(parts, key=float)) if number % 2 else (parts[0], parts[0])
        )
        said.append(least if least == most else f"{least} to {most}")
    return "".join(said)


def _tied(ties: dict[str, list[str]]) -> list[str]:
    """Who is tied with whom: in one line where that is mutual, for not being told apart is not transitive."""
    lines = []
    for name, others in ties.items():
        circle = {name, *others}
        if all({other, *ties.get(other, [])} == circle for other in others):
            *first, last = [each for each in ties if each in circle]
            lines.append(f"{', '.join(first)} and {last} are tied")
        else:
            lines.append(f"{name} is tied with {', '.join(others)}")
    return list(
        dict.fromkeys(line for line, others in zip(lines, ties.values(), strict=True) if others)
    )
