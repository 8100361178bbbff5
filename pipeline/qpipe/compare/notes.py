"""What a person can act on, in words: of a row by itself, and against the float network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qpipe.compare.candidates import Candidate
from qpipe.compare.evidence import Goal, difference, disturbed, is_better, is_significant
from qpipe.types import Measurement

NOISY = 0.10  # a standard deviation of this part of the median says that something is wrong with the machine
SLOWER = 0.01  # than float, by this part, is worth a word
EXACT_DB = 200.0


def notes(row: Candidate, group: Sequence[Candidate], objectives: Mapping[str, Goal]) -> dict[str, str]:
    """By what they are about: noise, rounds, warmup, precision, slower, and each score that float has too."""
    base = next((other for other in group if other.is_float and other.build == row.build), None)
    timed = row.metrics.get("latency_ms")
    found = dict(_of_times(timed)) if timed else {}
    if base is None or row.is_float:
        return found
    if slower := _slower(row, base):
        found["slower"] = slower
    scores = [metric for metric, goal in objectives.items() if goal == "max"]
    for metric in (metric for metric in scores if metric in row.metrics and metric in base.metrics):
        if said := _against_float(metric, row.metrics[metric], base.metrics[metric]):
            found[metric] = said
    return found


def _of_times(timed: Measurement) -> list[tuple[str, str]]:
    detail, found = timed.detail, []
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
        say = f"never steady in warmup in {restless} of {len(timed.rounds)} rounds: raise warmup_s"
        found.append(("warmup", say))
    if detail.get("stopped") == "budget" and timed.low is not None and timed.high is not None:
        half = (timed.high - timed.low) / 2 / timed.value
        found.append(("precision", f"known to ±{100 * half:.1f} % when the budget ended: raise budget_s"))
    return found


def _conditions(timed: Measurement) -> list[tuple[str, str]]:
    """What was asked of the device for the rounds, and it could not do."""
    found = []
    for key, word in (("unlocked", "not set there"), ("too_warm", "rounds began at")):
        said = {str(each["environment"][key]): None for each in timed.conditions if key in each.get("environment", {})}
        if said:
            found.append((key, f"{word}: {'; '.join(said)}"))
    return found


def _remedy(timed: Measurement) -> str:
    """What to do about noise, by what the device said of its clocks."""
    before = [each["environment"].get("before", {}) for each in timed.conditions if each.get("environment")]
    governors = {str(name) for each in before for name in each.get("governor", {}).values()} - {"performance"}
    if governors:
        return f"fix the clocks (governor is {', '.join(sorted(governors))})"
    return "let nothing else run there"


def _slower(row: Candidate, base: Candidate) -> str:
    """By the ratio of paired rounds where it was measured."""
    own, other, ratio = (where.get(m) for where, m in (
        (row.metrics, "latency_ms"), (base.metrics, "latency_ms"), (row.metrics, "latency_ratio")
    ))  # fmt: skip
    if ratio and ratio.low is not None and ratio.high is not None:
        if ratio.low <= 1 or ratio.value <= 1 + SLOWER:
            return ""
        return f"slower than float here ({ratio.value:.2f}x, {ratio.low:.2f} to {ratio.high:.2f})"
    if own and other and is_better(other, own, "min", SLOWER):
        return f"slower than float here ({own.value / other.value:.2f}x)"
    return ""


def _against_float(metric: str, own: Measurement, base: Measurement) -> str:
    """How much of a score was lost, and whether that is more than chance. Nothing against what float is by nature."""
    shares = own.unit == "" and all(0 <= each.value <= 1 for each in (own, base))
    if (shares and base.value == 1) or (own.unit == "dB" and base.value >= EXACT_DB):
        return ""
    low, high = difference(base, own)
    scale, unit = (100, "points") if shares else (1, own.unit)
    lost = (base.value - own.value) * scale
    word = "loses" if lost >= 0 else "gains"
    ends = sorted(each * scale * (1 if lost >= 0 else -1) for each in (low, high))
    said = f"{word} {abs(lost):.1f} {unit} of {metric} against float".replace("  ", " ")
    if not is_significant(base, own):
        return f"{said}, not significant ({ends[0]:.1f} to {ends[1]:.1f})"
    return f"{said} ({ends[0]:.1f} to {ends[1]:.1f})"
