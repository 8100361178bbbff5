"""Which scheme to ship: the fastest of those that are shown to keep the accuracy of float.

A scheme keeps it where the whole interval of its loss is within what is allowed. These claims hold
together: with 95 % none of them is wrong, by Holm's step-down procedure over all schemes that are
compared (Holm 1979; both directions at once as in Shaffer 1980). While k schemes are undecided, the
interval of each leaves 5 % / k beyond the end that counts, and never more than the 2.5 % of a 95 %
interval; those that lie wholly on one side of what is allowed are decided, and the rest are judged
again with the smaller k.

Of those that keep it the fastest is chosen, then the smallest, then the one of the least memory:
each time all go on that are not shown to be worse than the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qpipe.compare.evidence import (
    Goal,
    IntervalByLevel,
    bounds,
    difference_by_level,
    is_better,
    is_single,
    samples_to_tell,
)
from qpipe.compare.intervals import Interval
from qpipe.compare.measured_rows import Candidate
from qpipe.compare.notes import float_reference
from qpipe.types import SHARE, Limits, Measurement

KEEP = 1.0  # points of a share, percent of float's value for other metrics
KEEP_AGREEMENT = 2.0  # points: without labels, answers must be shown to equal float's in 98 %
FAMILY_ERROR = 0.05  # the chance that any of the claims is wrong
MOST_TAIL = 0.025  # beyond one end of a 95 % interval

Verdict = Literal["kept", "lost", "unknown"]


@dataclass(frozen=True)
class Loss:
    """What a scheme loses of a metric against what is allowed, and what is shown of it."""

    metric: str
    unit: str
    n: int
    value: float  # negative where it gains
    interval: Interval  # of the decision
    allowed: float
    verdict: Verdict

    @property
    def samples_needed(self) -> int | None:
        """About how many samples would show that it is kept; None where none are likely to."""
        half = self.interval[1] - self.value
        return samples_to_tell(self.n, distance=self.allowed - self.value, half=half)


@dataclass(frozen=True)
class Question:
    """What of a scheme is to be shown: that what it loses is at most this."""

    measurement: Measurement
    value: float
    interval_at: IntervalByLevel
    allowed: float


@dataclass(frozen=True)
class Decision:
    """What to ship, and what speaks for it; nothing where no scheme is chosen."""

    losses: Mapping[str, Loss]  # of each scheme that is compared, by its name
    kept: Sequence[Candidate] = ()  # shown to keep it; with float, where any other scheme does
    chosen: Candidate | None = None
    fastest: Candidate | None = None  # by value, among those that keep it
    runner_up: Candidate | None = None
    smallest: Candidate | None = None  # of those that keep it
    most_accurate: Candidate | None = None  # of all, but for float
    doubt: str = ""  # why the fastest is not known


def quality_metric(rows: Sequence[Candidate], objectives: Mapping[str, Goal]) -> str | None:
    """Return the objective that tells how good answers are.

    It is the first one that float can lose, too; else the first that compares with float's answers.
    """
    first_against_float = None
    for metric in objectives:
        numbers = [row.metrics[metric] for row in rows if metric in row.metrics]
        if not numbers or any(number.raw == "rounds" for number in numbers):
            continue
        if not any("against" in number.detail for number in numbers):
            return metric
        first_against_float = first_against_float or metric
    return first_against_float


def latency_metric(rows: Sequence[Candidate], objectives: Mapping[str, Goal]) -> str | None:
    """Return the metric that tells which is the fastest: an objective, or the median latency."""
    names = [metric for metric in objectives if metric.startswith("latency")]
    for metric in [*names, "latency_ms"]:
        if any(metric in row.metrics for row in rows):
            return metric
    return None


def decide(
    group: Sequence[Candidate],
    eligible: Sequence[Candidate],
    objectives: Mapping[str, Goal],
    limits: Limits,
    keep: float | None,
) -> Decision:
    """Choose among the eligible rows of a group of one model and device.

    `keep` is what may be lost of the quality objective: points of a share, percent of float's value
    of any other metric; None for the default. A limit on that objective takes the place of the
    default. The group has such an objective.
    """
    metric = quality_metric(group, objectives)
    assert metric is not None
    goal = objectives[metric]
    questions = {}
    for row in eligible:
        question = _question(row, group, metric, goal, limits, keep)
        if question is not None and not row.is_float:
            questions[row.name] = question
    losses = judge_losses(questions)
    kept = [row for row in eligible if row.name in losses and losses[row.name].verdict == "kept"]
    if not kept:
        return Decision(losses)
    kept += [row for row in eligible if row.is_float and _satisfies(row, metric, limits, keep)]
    latency = latency_metric(eligible, objectives)
    doubt = _timing_doubt(kept, latency)
    if doubt:
        return Decision(losses, kept, doubt=doubt)
    costs = [cost for cost in (latency, "size_mb", "memory_mb") if cost is not None]
    chosen = _cheapest(kept, costs, losses)
    others = [row for row in kept if row is not chosen]
    quantized = [row for row in kept if not row.is_float]
    compared = [row for row in eligible if row.name in losses]
    return Decision(
        losses,
        kept,
        chosen,
        fastest=min(kept, key=lambda row: row.metrics[latency].value) if latency else None,
        runner_up=_cheapest(others, costs, losses) if others else None,
        smallest=_cheapest(quantized, ["size_mb", *costs], losses),
        most_accurate=min(compared, key=lambda row: losses[row.name].value),
    )


# ---- what is lost


def _question(
    row: Candidate,
    group: Sequence[Candidate],
    metric: str,
    goal: Goal,
    limits: Limits,
    keep: float | None,
) -> Question | None:
    """Return what is to be shown of a row; None where nothing says what it may lose."""
    number = row.metrics.get(metric)
    if number is None:
        return None
    if metric in limits and keep is None:
        return _limit_question(number, limits)
    if "against" in number.detail:
        if number.unit != SHARE:
            return None
        allowed = (KEEP_AGREEMENT if keep is None else keep) / 100
        return Question(number, 1 - number.value, _Mirrored(number, 1.0), allowed)
    reference = float_reference(row, group)
    float_number = reference.metrics.get(metric) if reference else None
    if float_number is None:
        return None
    allowed = (KEEP if keep is None else keep) / 100
    if number.unit != SHARE:
        allowed *= abs(float_number.value)
    if goal == "max":
        lost = difference_by_level(float_number, number)
        return Question(number, float_number.value - number.value, lost, allowed)
    lost = difference_by_level(number, float_number)
    return Question(number, number.value - float_number.value, lost, allowed)


def _limit_question(number: Measurement, limits: Limits) -> Question:
    """Return whether a whole interval is within a limit: what it lacks is at most nothing."""
    sign, bound = limits[number.metric]
    if sign.startswith(">"):
        return Question(number, bound - number.value, _Mirrored(number, bound), 0.0)
    return Question(number, number.value - bound, _Shifted(number, bound), 0.0)


@dataclass(frozen=True)
class _Mirrored:
    """The interval of a bound less a number, by level."""

    number: Measurement
    bound: float

    def __call__(self, level: float) -> Interval:
        low, high = bounds(self.number, level)
        return self.bound - high, self.bound - low


@dataclass(frozen=True)
class _Shifted:
    """The interval of a number less a bound, by level."""

    number: Measurement
    bound: float

    def __call__(self, level: float) -> Interval:
        low, high = bounds(self.number, level)
        return low - self.bound, high - self.bound


def judge_losses(questions: Mapping[str, Question]) -> dict[str, Loss]:
    """Return what is shown of each scheme, by name; all claims hold together (Holm)."""
    losses: dict[str, Loss] = {}
    undecided = dict(questions)
    while undecided:
        level = 1 - 2 * min(MOST_TAIL, FAMILY_ERROR / len(undecided))
        judged = {name: _judge(question, level) for name, question in undecided.items()}
        decided = {name: loss for name, loss in judged.items() if loss.verdict != "unknown"}
        losses |= decided or judged
        undecided = {name: question for name, question in undecided.items() if name not in losses}
    return losses


def _judge(question: Question, level: float) -> Loss:
    low, high = question.interval_at(level)
    verdict: Verdict = "unknown"
    if high <= question.allowed:
        verdict = "kept"
    elif low > question.allowed:
        verdict = "lost"
    number = question.measurement
    return Loss(
        number.metric, number.unit, number.n, question.value, (low, high), question.allowed, verdict
    )


def _satisfies(row: Candidate, metric: str, limits: Limits, keep: float | None) -> bool:
    """Return whether float is within a limit on the quality metric, as its interval shows."""
    if metric not in limits or keep is not None:
        return True
    question = _limit_question(row.metrics[metric], limits)
    return question.interval_at(1 - 2 * MOST_TAIL)[1] <= 0


# ---- the cheapest


def _timing_doubt(kept: Sequence[Candidate], latency: str | None) -> str:
    """Return why the times of these rows do not tell which is the fastest; empty where they do."""
    if latency is None:
        return ""
    for row in kept:
        number = row.metrics[latency]
        doubt = number.detail.get("doubt")
        if doubt:
            return f"{latency} of {row.scheme} is in doubt: {doubt}"
        if is_single(number):
            return f"{latency} was measured in one round only"
    return ""


def _cheapest(
    rows: Sequence[Candidate], costs: Sequence[str], losses: Mapping[str, Loss]
) -> Candidate:
    """Return the row that costs least, by each cost in turn; the most accurate of equal ones."""
    remaining = list(rows)
    for cost in costs:
        measured = [row for row in remaining if cost in row.metrics]
        if len(measured) < len(remaining):
            continue  # not measured of all, so that it does not tell which is the best
        best = min(measured, key=lambda row: row.metrics[cost].value)
        remaining = [row for row in measured if not _is_dearer(row, best, cost)]
    return min(remaining, key=lambda row: losses[row.name].value if row.name in losses else 0.0)


def _is_dearer(row: Candidate, best: Candidate, cost: str) -> bool:
    return row is not best and is_better(best.metrics[cost], row.metrics[cost], "min")
