"""What sentences on rows share: their numbers, their doubts, and whether they keep to limits."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from qpipe.compare.formatting import is_emulated, is_share, phrase
from qpipe.compare.intervals import Interval
from qpipe.compare.json_rows import MetricValue, ParetoRow, doubt_of
from qpipe.types import Limits

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def keeps(row: ParetoRow, limits: Limits) -> bool:
    """Return whether a row has all metrics of the limits, and is within these."""
    for metric, (sign, bound) in limits.items():
        measured = row["metrics"].get(metric)
        if measured is None or not OPERATORS[sign](measured["value"], bound):
            return False
    return True


def limit_text(metric: str, limits: Limits) -> str:
    """Return a limit for a sentence, such as map50 >= 0.8."""
    sign, bound = limits[metric]
    return f"{metric} {sign} {bound:g}"


def best_values(rows: Sequence[ParetoRow], limits: Limits) -> str:
    """Return the best number of each metric that has a limit, as the end of a sentence."""
    best = [_best_value(rows, metric, limits[metric][0]) for metric in limits]
    return f"; the best is {', '.join(best)}" if best else ""


def _best_value(rows: Sequence[ParetoRow], metric: str, sign: str) -> str:
    measured_rows = [row for row in rows if metric in row["metrics"]]
    if not measured_rows:
        return f"{metric} not measured"
    choose_best = min if sign.startswith("<") else max
    best_row = choose_best(measured_rows, key=lambda row: row["metrics"][metric]["value"])
    return f"{number(best_row, metric, rows)} ({best_row['name']})"


def number(row: ParetoRow, metric: str, rows: Sequence[ParetoRow]) -> str:
    """Return a number of a row for a sentence."""
    measured = row["metrics"][metric]
    text = phrase(metric, measured, is_share(metric, rows))
    if is_emulated(metric, measured["unit"], row.get("emulated")):
        return f"emulated {text}"
    return text


def doubts(row: ParetoRow, metrics: Sequence[str]) -> str:
    """Return which of a row's numbers are not to be trusted, and why."""
    metrics_by_reason: dict[str, list[str]] = {}
    for metric in metrics:
        reason = doubt_of(row["metrics"][metric])
        if reason:
            metrics_by_reason.setdefault(reason, []).append(metric)
    parts = []
    for reason, doubted in metrics_by_reason.items():
        verb = "is" if len(doubted) == 1 else "are"
        parts.append(f"{' and '.join(doubted)} {verb} in doubt: {reason}")
    return f"but {'; '.join(parts)}" if parts else ""


def certainty_of_limits(row: ParetoRow, limits: Limits) -> str:
    """Return whether whole intervals are within the limits; nothing where that is not known."""
    metrics = list(limits)
    if not metrics or doubts(row, metrics) or single_metrics([row], metrics):
        return ""
    exceeded = []
    for metric, (sign, bound) in limits.items():
        ends = interval_of(row["metrics"][metric])
        if not all(OPERATORS[sign](end, bound) for end in ends):
            exceeded.append(limit_text(metric, limits))
    if exceeded:
        return f"but barely: the interval reaches beyond {' and '.join(exceeded)}"
    return "surely"


def single_metrics(rows: Sequence[ParetoRow], metrics: Sequence[str]) -> list[str]:
    """Return the metrics that a row has measured only once: they cannot be resampled."""
    return [metric for metric in metrics if any(_is_single(row, metric) for row in rows)]


def _is_single(row: ParetoRow, metric: str) -> bool:
    return row["metrics"][metric].get("single", False)


def interval_of(measured: MetricValue) -> Interval:
    """Return the interval of a number; that of an exact one is the value itself."""
    low = measured["low"]
    high = measured["high"]
    if low is None or high is None:
        return measured["value"], measured["value"]
    return low, high
