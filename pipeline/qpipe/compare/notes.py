"""What a person can act on, in words: of a row by itself, and against the float network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qpipe.compare.evidence import Goal, difference, disturbed, is_better, is_significant, is_single
from qpipe.compare.measured_rows import Candidate
from qpipe.types import SHARE, Measurement

NOISY = 0.10  # a standard deviation of this part of the median says that something is wrong with the machine
SLOWER = 0.01  # than float, by this part, is worth a word
SLOW_MS = 100.0  # of such inferences a longer warmup holds too few, unless the rounds may take longer as well


def notes(
    row: Candidate, group: Sequence[Candidate], objectives: Mapping[str, Goal]
) -> dict[str, str]:
    """By what they are about: noise, rounds, doubt, unlocked, too_warm, warmup, precision, slower, and each score among
    the objectives that float has too."""
    base = next((other for other in group if other.is_float and other.build == row.build), None)
    timed = row.metrics.get("latency_ms")
    found = dict(_of_times(timed)) if timed else {}
    if base is None or row.is_float:
        return found
    if slower := _slower(row, base):
        found["slower"] = slower
    for metric, goal in objectives.items():
        own = row.metrics.get(metric)
        other = base.metrics.get(metric)
        if own and other and _is_of_answers(own):
            found[metric] = _against_float(metric, own, other, goal)
    return found


def _is_of_answers(measured: Measurement) -> bool:
    """Whether it is a score that float can lose too, and not one that compares with float itself."""
    return measured.raw in ("samples", "resamples") and "against" not in measured.detail


def _of_times(timed: Measurement) -> list[tuple[str, str]]:
    detail = timed.detail
    found = []
    skipped = disturbed(timed)
    believed = [each for n, each in enumerate(timed.rounds) if n not in skipped] or timed.rounds
    values = [value for each in believed for value in each]
    if len(values) > 1 and (spread := float(np.std(values, ddof=1)) / timed.value) > NOISY:
        say = f"std dev is {100 * spread:.0f} % of the median over {len(values)} runs: {_remedy(timed)}"
        found.append(("noise", say))
    if skipped and not detail.get("doubt"):
        reasons = {str(timed.conditions[n]["invalid"]): None for n in sorted(skipped)}
        say = f"{len(skipped)} of {len(timed.rounds)} rounds were disturbed and do not count: {'; '.join(reasons)}"
        found.append(("rounds", say))
    if doubt := detail.get("doubt"):
        found.append(("doubt", f"do not believe its times: {doubt}"))
    found += _conditions(timed)
    if restless := detail.get("never_steady"):
        raised = "round_s, and warmup_s to an eighth of it" if timed.value > SLOW_MS else "warmup_s"
        say = f"never steady in warmup in {restless} of {len(timed.rounds)} rounds: raise {raised}"
        found.append(("warmup", say))
    if unknown := _precision(timed):
        found.append(("precision", unknown))
    return found


def _precision(timed: Measurement) -> str:
    """How well the median is known, where that is not as well as was asked; and what would help."""
    stopped = timed.detail.get("stopped")
    ended, option = (
        ("the budget ended", "budget_s") if stopped == "budget" else ("the rounds ended", "rounds")
    )
    if is_single(timed):
        return f"of one round nobody knows how well it is known: raise {option}"
    if timed.low is None or timed.high is None or timed.detail.get("precise", stopped != "budget"):
        return ""
    return f"known to ±{100 * (timed.high - timed.low) / 2 / timed.value:.1f} % when {ended}: raise {option}"


def _conditions(timed: Measurement) -> list[tuple[str, str]]:
    """What was asked of the device for the rounds, and it could not do."""
    found = []
    for key, word in (("unlocked", "not set there"), ("too_warm", "rounds began at")):
        told = (each.get("environment") or {} for each in timed.conditions)
        said = {str(each[key]): None for each in told if key in each}
        if said:
            found.append((key, f"{word}: {'; '.join(said)}"))
    return found


def _remedy(timed: Measurement) -> str:
    """What to do about noise, by what the device said of its clocks."""
    before = [
        each["environment"].get("before", {})
        for each in timed.conditions
        if each.get("environment")
    ]
    governors = {str(name) for each in before for name in each.get("governor", {}).values()} - {
        "performance"
    }
    if governors:
        return f"fix the clocks (governor is {', '.join(sorted(governors))})"
    return "let nothing else run there"


def _slower(row: Candidate, base: Candidate) -> str:
    """By the ratio of paired rounds where it was measured; nothing by numbers in doubt."""
    own, other, ratio = (
        where.get(m)
        for where, m in (
            (row.metrics, "latency_ms"),
            (base.metrics, "latency_ms"),
            (row.metrics, "latency_ratio"),
        )
    )
    if any(each.detail.get("doubt") for each in (own, other, ratio) if each):
        return ""
    if ratio and ratio.low is not None and ratio.high is not None:
        if ratio.low <= 1 or ratio.value <= 1 + SLOWER:
            return ""
        return f"slower than float here ({ratio.value:.2f}x, {ratio.low:.2f} to {ratio.high:.2f})"
    if own and other and is_better(other, own, "min", SLOWER):
        return f"slower than float here ({own.value / other.value:.2f}x)"
    return ""


def _against_float(metric: str, own: Measurement, base: Measurement, goal: Goal) -> str:
    """How much of a score was lost, and whether that is more than chance."""
    low, high = difference(own, base)
    scale, digits, unit = (100, ".1f", "points") if own.unit == SHARE else (1, ".3g", own.unit)
    change = (own.value - base.value) * scale
    sign = 1 if change > 0 or (change == 0 and goal == "min") else -1
    word = {("max", -1): "loses", ("max", 1): "gains", ("min", 1): "adds", ("min", -1): "saves"}[
        goal, sign
    ]
    said = f"{word} {abs(change):{digits}} {unit} of {metric} against float".replace("  ", " ")
    significant = "" if is_significant(own, base) else ", not significant"
    if not math.isfinite(high - low):
        return said + significant
    ends = sorted(each * scale * sign for each in (low, high))
    return f"{said}{significant} ({ends[0]:{digits}} to {ends[1]:{digits}})"
