"""What a recommendation must satisfy: limits, as --min and --max give them, and --keep."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from qpipe.errors import RecipeError, suggest
from qpipe.types import Limits

Comparison = Literal["<", "<=", ">", ">="]


def read_limits(minima: Iterable[str], maxima: Iterable[str]) -> Limits:
    """Read limits written as `METRIC=VALUE`; raise RecipeError for one without a number."""
    limits: dict[str, tuple[Comparison, float]] = {}
    for text in minima:
        _add_limit(limits, text, option="--min", comparison=">=")
    for text in maxima:
        _add_limit(limits, text, option="--max", comparison="<=")
    return limits


def _add_limit(
    limits: dict[str, tuple[Comparison, float]], text: str, *, option: str, comparison: Comparison
) -> None:
    metric, _, value = text.partition("=")
    bound = parse_fraction(value)
    if not metric or not math.isfinite(bound):
        raise RecipeError(f"{option} {text}: no number; write {option} METRIC=VALUE")
    if metric in limits:
        raise RecipeError(f"{option} {text}: '{metric}' has a limit already; give one")
    limits[metric] = (comparison, bound)


def stored_limits(run: Mapping[str, Any]) -> Limits:
    """Return the limits that a stored run was asked to satisfy."""
    request = run["request"] or {}
    limits = request.get("limits") or {}
    return {metric: (comparison, float(bound)) for metric, (comparison, bound) in limits.items()}


def read_keep(text: str | float) -> float:
    """Read what may be lost against float: points of a share, percent of any other metric.

    `0.5%` is the same as 0.5. Raise RecipeError for anything else.
    """
    digits = str(text).removesuffix("%")
    try:
        keep = float(digits)
    except ValueError:
        keep = math.nan
    if isinstance(text, bool) or not 0 <= keep <= 100:
        raise RecipeError(f"{text!r} is no loss; write points from 0 to 100, such as 0.5")
    return keep


def stored_keep(run: Mapping[str, Any]) -> float | None:
    """Return what a stored run was asked to keep; None for the default."""
    keep = (run["request"] or {}).get("keep")
    return None if keep is None else float(keep)


def limit_errors(
    limits: Limits, *, measured: Collection[str] | None, shares: Collection[str]
) -> list[str]:
    """Return one line for each limit that cannot be meant.

    Such a limit is on a metric that is not in `measured` (None: unknown), or above 1 on a metric
    in `shares`, whose values lie between 0 and 1.
    """
    lines: list[str] = []
    for metric, (comparison, bound) in limits.items():
        option = "--min" if comparison.startswith(">") else "--max"
        if measured is not None and metric not in measured:
            lines.append(f"{option} {metric}: it is not measured; {suggest(metric, measured)}")
        elif metric in shares and bound > 1:
            lines.append(
                f"{option} {metric}={bound:g}: it is a share; write {bound:g}% or {bound / 100:g}"
            )
    return lines


def parse_fraction(text: str | float) -> float:
    """Return a number, or a percentage as a fraction; NaN for anything else."""
    digits = str(text)
    divisor = 1
    if digits.endswith("%"):
        digits = digits.removesuffix("%")
        divisor = 100
    try:
        return float(digits) / divisor
    except ValueError:
        return math.nan
