"""From measured rows to one sentence: what to ship on a device, what it costs, what would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpipe.compare.decision import (
    KEEP,
    KEEP_AGREEMENT,
    Decision,
    Loss,
    decide,
    latency_metric,
    quality_metric,
)
from qpipe.compare.evidence import (
    MARGINS,
    Goal,
    difference,
    is_no_worse,
    most_lost,
    samples_to_tell,
)
from qpipe.compare.formatting import place_title
from qpipe.compare.json_rows import ParetoRow, group_by_place
from qpipe.compare.measured_rows import Candidate
from qpipe.compare.pareto import JudgedRow
from qpipe.compare.row_phrases import (
    best_values,
    certainty_of_limits,
    keeps,
    limit_text,
    number,
)
from qpipe.compare.undecided import rounded
from qpipe.types import SHARE, Limits

COMMAND = "qpipe run RECIPE"


@dataclass(frozen=True)
class _Case:
    """The rows of one model and device, and what to choose by."""

    judged: Sequence[JudgedRow]
    objectives: Mapping[str, Goal]
    limits: Limits
    keep: float | None
    command: str  # that measures again

    @property
    def rows(self) -> list[ParetoRow]:
        return [judged.row for judged in self.judged]

    @property
    def group(self) -> list[Candidate]:
        return [judged.candidate for judged in self.judged]

    @property
    def metrics(self) -> list[str]:
        """The metrics of objectives and limits."""
        return list(dict.fromkeys([*self.objectives, *self.limits]))

    @property
    def other_limits(self) -> Limits:
        """The limits but for one that takes the place of what may be lost."""
        quality = quality_metric(self.group, self.objectives)
        if self.keep is not None or quality is None:
            return self.limits
        return {metric: limit for metric, limit in self.limits.items() if metric != quality}

    @property
    def eligible(self) -> list[Candidate]:
        """The rows within the limits that have all objectives, and a latency if others have.

        Whether a limit that takes the place of the loss is kept is for evidence to say.
        """
        limits = self.other_limits
        needed = set(self.objectives)
        latency = latency_metric(self.group, self.objectives)
        if latency:
            needed.add(latency)
        return [
            judged.candidate
            for judged in self.judged
            if keeps(judged.row, limits) and needed <= judged.row["metrics"].keys()
        ]

    def row_of(self, candidate: Candidate) -> ParetoRow:
        return next(judged.row for judged in self.judged if judged.candidate is candidate)

    def name(self, candidate: Candidate) -> str:
        return self.row_of(candidate)["name"]


def choose(
    judged: Sequence[JudgedRow],
    objectives: Mapping[str, Goal],
    limits: Limits | None = None,
    keep: float | None = None,
) -> ParetoRow | None:
    """Return the row to ship, of those of one model and device; None where none is shown to be."""
    case = _Case(judged, objectives, limits or {}, keep, COMMAND)
    if quality_metric(case.group, objectives) is None:
        return None
    decision = decide(case.group, case.eligible, objectives, case.limits, keep)
    return case.row_of(decision.chosen) if decision.chosen else None


def recommend(
    judged: Sequence[JudgedRow],
    objectives: Mapping[str, Goal],
    limits: Limits | None = None,
    keep: float | None = None,
    command: str = COMMAND,
) -> list[str]:
    """Return a sentence for each model and device; the objectives are those measured there.

    `command` is the one that measures again.
    """
    places = group_by_place(judged, lambda each: (each.row["model"], each.row["device"]))
    sentences = []
    for group in places.values():
        case = _Case(group, objectives, limits or {}, keep, command)
        sentences.append(f"{place_title(case.rows)}: {'; '.join(_clauses(case))}")
    return sentences


def advise(
    judged: Sequence[JudgedRow],
    objectives: Mapping[str, Goal],
    limits: Limits | None = None,
    keep: float | None = None,
    command: str = COMMAND,
) -> list[str]:
    """Return the clauses of the sentence of one model and device: what to ship first, then why."""
    return _clauses(_Case(judged, objectives, limits or {}, keep, command))


def _missing_objective(rows: Sequence[Candidate]) -> str:
    """Return what to add to the recipe, so that an objective tells how good answers are."""
    goals: dict[str, Goal] = {}
    for row in rows:
        goals |= {name: number.better for name, number in row.metrics.items()}
    metric = quality_metric(rows, goals)
    if metric is None:
        return "accuracy to measure, and agreement: max to pareto"
    return f"one to pareto, such as {metric}: {goals[metric]}"


def _clauses(case: _Case) -> list[str]:
    if not case.metrics:
        return ["nothing to choose by was measured"]
    eligible = case.eligible
    if not eligible:
        required = " and ".join(limit_text(name, case.limits) for name in case.limits)
        required = required or " and ".join(case.objectives)
        return [f"no scheme has {required}{best_values(case.rows, case.limits)}"]
    metric = quality_metric(case.group, case.objectives)
    if metric is None:
        return [
            "nothing is recommended: no objective tells how good the answers are",
            f"add {_missing_objective(case.group)} (--knee chooses without)",
        ]
    decision = decide(case.group, eligible, case.objectives, case.limits, case.keep)
    if decision.chosen is not None:
        return _choice(case, decision, decision.chosen, metric)
    if decision.doubt:
        return [
            f"nothing is recommended: {decision.doubt}",
            f"measure more rounds on a quiet device, then: {case.command}",
        ]
    return f"nothing is recommended: {_why_nothing(case, decision, metric)}".split("; ")


# ---- a scheme is chosen


def _choice(case: _Case, decision: Decision, chosen: Candidate, metric: str) -> list[str]:
    row = case.row_of(chosen)
    numbers = ", ".join(number(row, name, case.rows) for name in case.metrics)
    loss = decision.losses.get(chosen.name)
    parts = [
        f"ship {row['name']}, {_reason(case, decision, chosen, metric)}: {numbers}",
        f"it {_loss_text(loss, case)}" if loss else "no quantized one that keeps it is faster",
        certainty_of_limits(row, case.other_limits),
        _fastest_text(case, decision, chosen),
        *_alternatives(case, decision, chosen),
    ]
    return [part for part in parts if part]


def _reason(case: _Case, decision: Decision, chosen: Candidate, metric: str) -> str:
    """Return why a row is chosen, such as the fastest that is shown to lose at most 1 point."""
    best = "fastest" if latency_metric(case.group, case.objectives) else "smallest"
    allowed = _allowed_text(case, metric)
    others = " and ".join(limit_text(name, case.limits) for name in case.other_limits)
    within = f" with {others}" if others else ""
    verb = "keeps" if chosen.is_float else "is shown to have"
    if not _is_limited(case, metric):
        verb = "loses" if chosen.is_float else "is shown to lose"
    quantized = [row for row in decision.kept if not row.is_float]
    only = not chosen.is_float and len(quantized) == 1 < len(decision.losses)
    return f"the {'only one' if only else best}{within} that {verb} {allowed}"


def _is_limited(case: _Case, metric: str) -> bool:
    return metric in case.limits and case.keep is None


def _allowed_text(case: _Case, metric: str) -> str:
    if _is_limited(case, metric):
        return limit_text(metric, case.limits)
    numbers = [row.metrics[metric] for row in case.group if metric in row.metrics]
    is_against_float = any("against" in measured.detail for measured in numbers)
    default = KEEP_AGREEMENT if is_against_float else KEEP
    keep = default if case.keep is None else case.keep
    if numbers[0].unit != SHARE:
        return f"at most {keep:g} % of float's {metric}"
    points = "point" if keep == 1 else "points"
    return f"at most {keep:g} {points} of {metric}"


def _loss_text(loss: Loss, case: _Case) -> str:
    """Return what is lost with its interval, such as loses 0.3 points (-0.1 to 0.7) of map50."""
    scale = 100 if loss.unit == SHARE else 1
    digits = "z.1f" if loss.unit == SHARE else "z.3g"
    unit = "points" if loss.unit == SHARE else loss.unit
    is_gain = loss.value < 0
    sign = -scale if is_gain else scale
    low, high = sorted(end * sign for end in loss.interval)
    amount = f"{abs(loss.value) * scale:{digits}} {unit}".rstrip()
    interval = f"({low:{digits}} to {high:{digits}})" if math.isfinite(high - low) else ""
    if _is_limited(case, loss.metric):
        relation = "within" if is_gain else "beyond"
        return f"is {amount} {interval} {relation} it".replace("  ", " ")
    text = f"{'gains' if is_gain else 'loses'} {amount} of {loss.metric} against float {interval}"
    return text.rstrip()


def _fastest_text(case: _Case, decision: Decision, chosen: Candidate) -> str:
    """Return how much faster another may be, where that is not known to be within the margin."""
    fastest = decision.fastest
    latency = latency_metric(case.group, case.objectives)
    if fastest is None or latency is None or fastest is chosen:
        return ""
    time = chosen.metrics[latency]
    least = fastest.metrics[latency]
    if is_no_worse(time, least, "min"):
        return ""
    lost = most_lost(time, least, "min")
    percent = 100 * lost / abs(time.value)
    name = case.name(fastest)
    text = f"{name} may be faster, by up to {percent:.1f} %, but is not shown to be"
    low, high = difference(time, least)
    allowed = MARGINS["min"] * abs(least.value)
    needed = samples_to_tell(time.n, distance=allowed, half=(high - low) / 2)
    return f"{text}: about {rounded(needed)} rounds would tell" if needed else text


def _alternatives(case: _Case, decision: Decision, chosen: Candidate) -> list[str]:
    """Return the runner-up, and what other good reasons would choose."""
    parts = []
    if decision.runner_up is not None:
        parts.append(f"runner-up: {case.name(decision.runner_up)}")
    same = []
    smallest = decision.smallest
    if smallest is chosen:
        same.append("the smallest that keeps it")
    elif smallest is not None:
        size = smallest.metrics.get("size_mb")
        text = f" ({size.value:.3g} {size.unit})" if size else ""
        parts.append(f"smallest that keeps it: {case.name(smallest)}{text}")
    most_accurate = decision.most_accurate
    if most_accurate is chosen:
        same.append("the most accurate")
    elif most_accurate is not None:
        text = _loss_text(decision.losses[most_accurate.name], case)
        parts.append(f"most accurate: {case.name(most_accurate)} ({text})")
    if same:
        parts.insert(0, f"it is also {' and '.join(same)}")
    return parts


# ---- nothing is shown


def _why_nothing(case: _Case, decision: Decision, metric: str) -> str:
    """Return what was not shown, which scheme is nearest to it, and what would tell."""
    if not decision.losses:
        return _why_nothing_is_compared(case, metric)
    verb = "have" if _is_limited(case, metric) else "lose"
    beginning = f"no scheme is shown to {verb} {_allowed_text(case, metric)}"
    unknown = {name: loss for name, loss in decision.losses.items() if loss.verdict == "unknown"}
    nearest_name = min(
        unknown or decision.losses,
        key=lambda name: (
            decision.losses[name].samples_needed or math.inf,
            decision.losses[name].value,
        ),
    )
    loss = decision.losses[nearest_name]
    nearest = next(row for row in case.group if row.name == nearest_name)
    text = f"{beginning}; {case.name(nearest)} {_loss_text(loss, case)} on {loss.n} samples"
    needed = loss.samples_needed
    if loss.verdict == "lost":
        return f"{text}, the least of all; allow more by --keep, or add a scheme"
    if needed is None:
        return f"{text}; more samples are not likely to show it: allow more by --keep"
    return f"{text}; about {rounded(needed)} samples would tell: add samples, then: {case.command}"


def _why_nothing_is_compared(case: _Case, metric: str) -> str:
    numbers = [row.metrics[metric] for row in case.group if metric in row.metrics]
    if any("against" in measured.detail for measured in numbers):
        return f"{metric} is no loss against float; say what it must be, as in --min {metric}=20"
    if not any(row.is_float and metric in row.metrics for row in case.group):
        return f"{metric} of the float network was not measured"
    return "no quantized scheme was measured within the limits"
