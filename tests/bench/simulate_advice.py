"""How often the advice is wrong, by simulation: ten schemes that truly lose 0 to 10 points against float, the faster the
more they lose, measured on 50 to 2000 samples; `keep` is 1 point.

python tests/bench/simulate_advice.py [RUNS]

Two kinds of scores. Scores of scenes stand for the shipped detector: on 500 scenes, map50 of its schemes correlates with
float's by 0.98 where 0.5 points are lost, 0.95 at 2.5 and 0.92 at 4.4, and a scene's standard deviation is 0.145. Right or
wrong answers stand for top1 of MobileNetV2: answers equal float's in 99.25 % for the most accurate scheme and 92 % for
log4. Both fall as 0.985 - 0.015 for each point; the answers that change are at least 1.2 times those that are lost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qpipe.compare import decision, intervals, knee
from qpipe.compare.evidence import Goal
from qpipe.compare.json_rows import ParetoRow
from qpipe.compare.measured_rows import Candidate
from qpipe.types import Array, Measurement

Kind = Literal["scenes", "answers"]

KEEP = 1.0
# true losses in points; the fourth is just beyond what may be lost
LOSSES = (0.0, 0.1, 0.2, 1.05, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
LATENCIES_MS = (6.0, 5.6, 5.2, 4.9, 4.7, 4.5, 4.3, 4.1, 4.0, 3.9)
SIZES_MB = (3.6, 3.6, 3.5, 2.6, 2.5, 2.4, 2.2, 2.0, 1.9, 1.8)
FLOAT_MS = 10.0
FLOAT_MB = 14.0
BEST = "s2"  # the fastest that loses at most 1 point, and clear of the boundary
SAMPLES = (50, 100, 200, 500, 1000, 2000)
ROUNDS = 10
ROUND_NOISE = 0.01
SCENE_SCORE = 0.85
SCENE_DEVIATION = 0.145
ANSWER_SCORE = 0.72
BEST_CORRELATION = 0.985
CORRELATION_LOST = 0.015  # for each point
LEAST_CHANGED = 1.2  # answers that change, for each that is lost
OBJECTIVES: dict[str, Goal] = {"latency_ms": "min", "score": "max", "size_mb": "min"}
FRONT_MARGIN = 0.005  # of a score, by the former rule


@dataclass(frozen=True)
class Outcome:
    """Shares of runs."""

    wrong: float  # what is recommended truly loses more than may be lost
    best: float  # the best is recommended
    none: float  # nothing is recommended


def draw_scores(kind: Kind, samples: int, random: np.random.Generator) -> Array:
    """Contributions of [1 + schemes, samples]; the first are float's."""
    losses = np.array(LOSSES)[:, None] / 100
    correlations = BEST_CORRELATION - CORRELATION_LOST * np.array(LOSSES)[:, None]
    if kind == "scenes":
        reference = SCENE_SCORE + SCENE_DEVIATION * random.standard_normal(samples)
        deviations = SCENE_DEVIATION * np.sqrt(2 * (1 - correlations))
        changes = deviations * random.standard_normal((len(LOSSES), samples)) - losses
        return np.vstack([reference, reference + changes])
    reference = (random.random(samples) < ANSWER_SCORE).astype(float)
    variance = ANSWER_SCORE * (1 - ANSWER_SCORE)
    changed = np.maximum(2 * variance * (1 - correlations), LEAST_CHANGED * losses)
    lost = (changed + losses) / 2 / ANSWER_SCORE
    gained = (changed - losses) / 2 / (1 - ANSWER_SCORE)
    is_changed = random.random((len(LOSSES), samples)) < np.where(reference == 1, lost, gained)
    return np.vstack([reference, np.where(is_changed, 1 - reference, reference)])


def draw_rows(
    kind: Kind, samples: int, random: np.random.Generator
) -> tuple[list[Candidate], Array]:
    """The rows of a run, and the contributions that they rest on; the first is float's."""
    scores = draw_scores(kind, samples, random)
    latencies = np.array([FLOAT_MS, *LATENCIES_MS])
    drift = np.exp(ROUND_NOISE * random.standard_normal(ROUNDS))
    rounds = (
        latencies[:, None]
        * drift
        * np.exp(ROUND_NOISE * random.standard_normal((len(latencies), ROUNDS)))
    )
    names = ["float32", *(f"s{number}" for number in range(len(LOSSES)))]
    rows = []
    for position, name in enumerate(names):
        contributions = scores[position]
        half = 1.96 * float(contributions.std()) / samples**0.5
        value = float(contributions.mean())
        score = Measurement(
            "score", value, "share", value - half, value + half, samples, "max",
            rounds=[contributions], raw="samples",
        )  # fmt: skip
        middle = float(np.median(rounds[position]))
        found = intervals.t_interval(rounds[position])
        assert found is not None
        latency = Measurement(
            "latency_ms",
            middle,
            "ms",
            *found,
            ROUNDS,
            rounds=[[value] for value in rounds[position].tolist()],
        )
        size = Measurement("size_mb", FLOAT_MB if not position else SIZES_MB[position - 1], "MB")
        metrics = {"latency_ms": latency, "score": score, "size_mb": size}
        rows.append(Candidate("net", name, "ort", "board", {}, "", not position, metrics))
    return rows, scores


def advise(rows: list[Candidate]) -> str:
    """The scheme that is recommended; empty where none is."""
    decided = decision.decide(rows, rows, OBJECTIVES, {}, KEEP)
    return decided.chosen.scheme if decided.chosen else ""


def advise_formerly(rows: list[Candidate], scores: Array) -> str:
    """The scheme that was recommended by the former rule.

    The nearest to the best of each objective on a front where a difference that is not significant counted as none.
    """
    on_front = former_front(rows, scores)
    pareto_rows = [_pareto_row(row, bool(front)) for row, front in zip(rows, on_front, strict=True)]
    chosen = knee.choose(pareto_rows, OBJECTIVES)
    return chosen["scheme"] if chosen else ""


def former_front(rows: list[Candidate], scores: Array) -> Array:
    """Whether no other row was better in one objective and worse in none; scores by a paired t-test at 95 %."""
    means = scores.mean(1)
    covariance = np.cov(scores)
    variances = np.diag(covariance)
    spread = np.sqrt(
        np.maximum(variances[:, None] + variances[None] - 2 * covariance, 0) / scores.shape[1]
    )
    gains = means[:, None] - means[None]
    significant = gains > intervals.t_quantile(scores.shape[1] - 1) * spread
    better_score = significant & (gains > FRONT_MARGIN * means[None])
    better = [better_score]
    for metric in ("latency_ms", "size_mb"):  # far apart, so that values alone decide
        values = np.array([row.metrics[metric].value for row in rows])
        better.append(values[:, None] < 0.99 * values[None])
    any_better = np.any(better, axis=0)
    dominates = any_better & ~any_better.T
    front: Array = ~dominates.any(0)
    return front


def _pareto_row(row: Candidate, on_front: bool) -> ParetoRow:
    values = {
        name: {
            "value": number.value,
            "unit": number.unit,
            "low": number.low,
            "high": number.high,
            "n": number.n,
        }
        for name, number in row.metrics.items()
    }
    pareto_row: Any = {
        "name": row.scheme,
        "scheme": row.scheme,
        "on_front": on_front,
        "metrics": values,
    }
    found: ParetoRow = pareto_row
    return found


def simulate(kind: Kind, samples: int, runs: int, seed: int = 0) -> tuple[Outcome, Outcome]:
    """What became of so many runs, by the rule and by the former one."""
    random = np.random.default_rng([seed, samples])
    advised, formerly = [], []
    for _ in range(runs):
        rows, scores = draw_rows(kind, samples, random)
        advised.append(advise(rows))
        formerly.append(advise_formerly(rows, scores))
    return _outcome(advised), _outcome(formerly)


def _outcome(advised: list[str]) -> Outcome:
    losses = dict(zip((f"s{number}" for number in range(len(LOSSES))), LOSSES, strict=True))
    wrong = sum(losses.get(name, 0.0) > KEEP for name in advised)
    runs = len(advised)
    return Outcome(wrong / runs, advised.count(BEST) / runs, advised.count("") / runs)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(
        "| scores | samples | wrong | best | none | formerly wrong | formerly best |\n|---|---|---|---|---|---|---|"
    )
    kinds: tuple[Kind, ...] = ("scenes", "answers")
    for kind in kinds:
        for samples in SAMPLES:
            now, formerly = simulate(kind, samples, runs)
            shares = (now.wrong, now.best, now.none, formerly.wrong, formerly.best)
            print(
                f"| {kind} | {samples} | {' | '.join(f'{share:.3f}' for share in shares)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
