"""Notes on a row that a person can act on: on its times, and on it against the float network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qpipe.compare.evidence import (
    Goal,
    difference,
    is_better,
    is_significant,
    is_single,
)
from qpipe.compare.measured_rows import Candidate
from qpipe.types import SHARE, Measurement

NOISY = 0.10  # a standard deviation of this part of the median means that the machine is disturbed
MORE_MEMORY = 0.05  # needing more memory than float by this part is worth a note
SLOWER = 0.01  # being slower than float by this part is worth a note
RUINED_DB = 3.0  # the error has half the power of float's outputs, or more
SLOW_MS = 100.0  # a longer warmup holds too few of such inferences, unless rounds are longer, too

# topics of what a device could not do for the rounds, and how their notes begin
UNMET_CONDITIONS = {"unlocked": "not set there", "too_warm": "rounds began at"}

CHANGES = {
    ("max", True): "gains",
    ("max", False): "loses",
    ("min", True): "adds",
    ("min", False): "saves",
}


def notes(
    row: Candidate, group: Sequence[Candidate], objectives: Mapping[str, Goal]
) -> dict[str, str]:
    """Return notes by topic.

    Topics are noise, rounds, doubt, unlocked, too_warm, warmup, precision, ruined, not_compared,
    levels, slower, memory, and each score among the objectives that float has, too.
    """
    timed = row.metrics.get("latency_ms")
    by_topic = _timing_notes(timed) if timed else {}
    ruined = _ruined_note(row)
    if ruined:
        by_topic["ruined"] = ruined
    not_compared = _not_compared_note(row)
    if not_compared:
        by_topic["not_compared"] = not_compared
    levels = _levels_note(row)
    if levels:
        by_topic["levels"] = levels
    reference = float_reference(row, group)
    if reference is not None:
        by_topic |= _notes_against_float(row, reference, objectives)
    return by_topic


def float_reference(row: Candidate, group: Sequence[Candidate]) -> Candidate | None:
    """Return the float row with the same build; None where there is none, or for float itself."""
    if row.is_float:
        return None
    return next((other for other in group if other.is_float and other.build == row.build), None)


def _notes_against_float(
    row: Candidate, reference: Candidate, objectives: Mapping[str, Goal]
) -> dict[str, str]:
    by_topic = {}
    slower = _slower_note(row, reference)
    if slower:
        by_topic["slower"] = slower
    memory = _memory_note(row, reference)
    if memory:
        by_topic["memory"] = memory
    for metric, goal in objectives.items():
        score = row.metrics.get(metric)
        float_score = reference.metrics.get(metric)
        if score and float_score and _is_score_of_answers(score):
            by_topic[metric] = _change_note(metric, score, float_score, goal)
    return by_topic


def _is_score_of_answers(score: Measurement) -> bool:
    """Return whether float can lose a score, too: it does not compare with float itself."""
    return score.raw in ("samples", "resamples") and "against" not in score.detail


# ---- times


def _timing_notes(timed: Measurement) -> dict[str, str]:
    by_topic = {
        "noise": _noise_note(timed),
        "rounds": _disturbed_note(timed),
        "doubt": _doubt_note(timed),
        **_condition_notes(timed),
        "warmup": _warmup_note(timed),
        "precision": _precision_note(timed),
    }
    return {topic: note for topic, note in by_topic.items() if note}


def _noise_note(timed: Measurement) -> str:
    disturbed = timed.disturbed_rounds
    rounds = [values for number, values in enumerate(timed.rounds) if number not in disturbed]
    values = [value for round_values in rounds or timed.rounds for value in round_values]
    if len(values) < 2:
        return ""
    spread = float(np.std(values, ddof=1)) / timed.value
    if spread <= NOISY:
        return ""
    remedy = _noise_remedy(timed)
    return f"std dev is {100 * spread:.0f} % of the median over {len(values)} runs: {remedy}"


def _noise_remedy(timed: Measurement) -> str:
    """Return what to do about noise, by the governors that the device reported."""
    governors = set()
    for round_ in timed.conditions:
        environment = round_.get("environment") or {}
        before = environment.get("before", {})
        governors |= {str(governor) for governor in before.get("governor", {}).values()}
    governors.discard("performance")
    if governors:
        return f"fix the clocks (governor is {', '.join(sorted(governors))})"
    return "let nothing else run there"


def _disturbed_note(timed: Measurement) -> str:
    disturbed = timed.disturbed_rounds
    if not disturbed or timed.detail.get("doubt"):
        return ""
    invalid_rounds = [timed.conditions[number] for number in sorted(disturbed)]
    reasons = dict.fromkeys(str(round_["invalid"]) for round_ in invalid_rounds)
    count = f"{len(disturbed)} of {len(timed.rounds)} rounds"
    return f"{count} were disturbed and do not count: {'; '.join(reasons)}"


def _doubt_note(timed: Measurement) -> str:
    doubt = timed.detail.get("doubt")
    return f"do not trust its times: {doubt}" if doubt else ""


def _condition_notes(timed: Measurement) -> dict[str, str]:
    """Return notes on what the device could not do for the rounds."""
    by_topic = {}
    for topic, beginning in UNMET_CONDITIONS.items():
        environments = [round_.get("environment") or {} for round_ in timed.conditions]
        reports = dict.fromkeys(str(report[topic]) for report in environments if topic in report)
        if reports:
            by_topic[topic] = f"{beginning}: {'; '.join(reports)}"
    return by_topic


def _warmup_note(timed: Measurement) -> str:
    unsteady_rounds = timed.detail.get("never_steady")
    if not unsteady_rounds:
        return ""
    options = "warmup_s"
    if timed.value > SLOW_MS:
        options = "round_s, and warmup_s to an eighth of it"
    return (
        f"never steady in warmup in {unsteady_rounds} of {len(timed.rounds)} rounds: "
        f"raise {options}"
    )


def _precision_note(timed: Measurement) -> str:
    """Return how well the median is known where that is less than was asked, and what helps."""
    stopped = timed.detail.get("stopped")
    if stopped == "budget":
        end = "the budget ended"
        option = "budget_s"
    else:
        end = "the rounds ended"
        option = "rounds"
    if is_single(timed):
        return f"measured in one round only, so its interval is not known: raise {option}"
    is_precise = timed.detail.get("precise", stopped != "budget")
    if timed.low is None or timed.high is None or is_precise:
        return ""
    half = (timed.high - timed.low) / 2 / timed.value
    return f"known to ±{100 * half:.1f} % when {end}: raise {option}"


# ---- against float


def _ruined_note(row: Candidate) -> str:
    """Return that hardly anything is left of float's outputs, where SQNR says so."""
    sqnr = row.metrics.get("sqnr_db")
    if sqnr is None or row.is_float or sqnr.value >= RUINED_DB:
        return ""
    return (
        f"ruined: its SQNR is {sqnr.value:.1f} dB; at 0 dB the error is as large as float's outputs"
    )


def _not_compared_note(row: Candidate) -> str:
    """Return which outputs scores leave out, because they cannot be compared with float's."""
    parts: list[str] = []
    for name, score in row.metrics.items():
        outputs = score.detail.get("not_compared", {})
        if outputs and not row.is_float:
            first, reason = next(iter(outputs.items()))
            parts.append(f"{name} leaves out {', '.join(outputs)} ('{first}': {reason})")
    return "; ".join(parts)


def _levels_note(row: Candidate) -> str:
    """Return what a processor costs the weights whose sums of products saturate."""
    bits = row.metrics.get("effective_bits")
    layers = bits.detail.get("limited_layers", 0) if bits else 0
    if not layers:
        return ""
    counted = "1 layer has" if layers == 1 else f"{layers} layers have"
    return f"weights of {counted} fewer levels because sums of products saturate on this processor"


def _slower_note(row: Candidate, reference: Candidate) -> str:
    """Return by how much a row is slower than float; nothing by numbers in doubt.

    The ratio of paired rounds decides where it was measured.
    """
    latency = row.metrics.get("latency_ms")
    float_latency = reference.metrics.get("latency_ms")
    ratio = row.metrics.get("latency_ratio")
    measured = [number for number in (latency, float_latency, ratio) if number]
    if any(number.detail.get("doubt") for number in measured):
        return ""
    if ratio and ratio.low is not None and ratio.high is not None:
        if ratio.low <= 1 or ratio.value <= 1 + SLOWER:
            return ""
        return f"slower than float here ({ratio.value:.2f}x, {ratio.low:.2f} to {ratio.high:.2f})"
    if latency and float_latency and is_better(float_latency, latency, "min", SLOWER):
        return f"slower than float here ({latency.value / float_latency.value:.2f}x)"
    return ""


def _memory_note(row: Candidate, reference: Candidate) -> str:
    """Return how much more memory a row needs than float, and whether it is loading that does."""
    memory = row.metrics.get("memory_mb")
    float_memory = reference.metrics.get("memory_mb")
    if not memory or not float_memory or memory.value <= (1 + MORE_MEMORY) * float_memory.value:
        return ""
    note = f"needs more memory than float, {memory.value:.0f} against {float_memory.value:.0f} MB"
    loading = row.metrics.get("memory_load_mb")
    running = row.metrics.get("memory_run_mb")
    if loading and running and loading.value > running.value:
        return f"{note} while it is loaded"
    return note


def _change_note(metric: str, score: Measurement, float_score: Measurement, goal: Goal) -> str:
    """Return how much a score changed against float, and whether that is more than chance."""
    scale = 1
    digits = "z.3g"
    unit = score.unit
    if score.unit == SHARE:
        scale = 100
        digits = "z.1f"
        unit = "points"
    change = (score.value - float_score.value) * scale
    is_rise = change > 0 or (change == 0 and goal == "min")
    verb = CHANGES[goal, is_rise]
    amount = f"{abs(change):{digits}} {unit}".rstrip()
    note = f"{verb} {amount} of {metric} against float"
    if not is_significant(score, float_score):
        note += ", not significant"
    interval = difference(score, float_score)
    if not all(math.isfinite(end) for end in interval):
        return note
    sign = 1 if is_rise else -1
    low, high = sorted(end * scale * sign for end in interval)
    return f"{note} ({low:{digits}} to {high:{digits}})"
