"""What a recommendation has to keep, as --min and --max say it: read, and held against what is measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from qpipe.errors import RecipeError, suggest
from qpipe.types import Limits


def read(least: Iterable[str], most: Iterable[str]) -> Limits:
    """What is given as `METRIC=VALUE`; RecipeError where one says nothing."""
    found: dict[str, tuple[Literal["<", "<=", ">", ">="], float]] = {}
    for option, sign, given in (("--min", ">=", least), ("--max", "<=", most)):
        for text in given:
            metric, _, value = text.partition("=")
            bound = part_of(value)
            if not metric or not math.isfinite(bound):
                raise RecipeError(f"{option} {text}: no number; write {option} METRIC=VALUE")
            if metric in found:
                raise RecipeError(f"{option} {text}: '{metric}' has a limit already; give one")
            found[metric] = (sign, bound)  # type: ignore[assignment]
    return found


def remembered(run: Mapping[str, Any]) -> Limits:
    """Those that a run was asked to keep."""
    limits = (run["request"] or {}).get("limits") or {}
    return {metric: (sign, float(bound)) for metric, (sign, bound) in limits.items()}


def misfits(limits: Limits, measured: Collection[str] | None, shares: Collection[str]) -> list[str]:
    """A line for each of what is not measured (where that is known), and for each that no share can reach."""
    lines = []
    for metric, (sign, bound) in limits.items():
        option = "--min" if sign.startswith(">") else "--max"
        if measured is not None and metric not in measured:
            lines.append(f"{option} {metric}: it is not measured; {suggest(metric, measured)}")
        elif metric in shares and bound > 1:
            lines.append(
                f"{option} {metric}={bound:g}: it is a share; write {bound:g}% or {bound / 100:g}"
            )
    return lines


def part_of(text: str | float) -> float:
    """A number, or a share in per cent; NaN where it is neither."""
    try:
        return float(str(text).removesuffix("%")) / (100 if str(text).endswith("%") else 1)
    except ValueError:
        return math.nan
