"""What is told below a table: ties, and what else to know of its rows."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def noted(group: list[Row]) -> list[str]:
    """What else to know of the rows, a line a topic and row; what all of a machine share, and ties, once."""
    shared = ("doubt", "noise", "rounds", "warmup", "precision")
    several = len({row["build"] for row in group}) > 1
    named = [(f"{row['scheme']}/{row['build']}" if several else str(row["scheme"]), row) for row in group]
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, row in named:
        for topic, text in row["notes"].items():
            found.setdefault((topic, "" if topic in shared else name), []).append((name, text))
    lines = _tied({name: row["ties"] for name, row in named})
    for (topic, _), told in found.items():
        name, text = told[0]
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        whose = f"all {len(group)}" if len(told) == len(group) > 1 else f"{name}{more}"
        lines.append(f"{whose}{' is' if topic == 'slower' else ':'} {text}")
    return ["", *(f"  {line}" for line in lines)] if lines else []


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
    return list(dict.fromkeys(line for line, others in zip(lines, ties.values(), strict=True) if others))
