"""The advice on simulated runs, of which the truth is known: `tests/bench/simulate_advice.py` with few runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUNS = 100
# of 100 runs of which 5 % are wrong, more than 13 are in one of two thousand; of 80 %, fewer than 67 in one of a thousand
MOST_WRONG = 13
LEAST_BEST = 67


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    file = Path(__file__).parents[1] / "bench/simulate_advice.py"
    spec = importlib.util.spec_from_file_location("simulate_advice", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_advice"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "samples", "is_enough"),
    [
        ("scenes", 50, False),
        ("scenes", 500, True),
        ("answers", 200, False),
        ("answers", 2000, True),
    ],
)
def test_what_is_recommended_seldom_loses_more_than_may_be_lost(
    kind: str, samples: int, is_enough: bool, simulation: ModuleType
) -> None:
    now, _ = simulation.simulate(kind, samples, RUNS, seed=1)
    assert now.wrong * RUNS <= MOST_WRONG
    if is_enough:
        assert now.best * RUNS >= LEAST_BEST


def test_the_simulated_scores_lose_what_they_are_said_to(simulation: ModuleType) -> None:
    import numpy as np

    for kind in ("scenes", "answers"):
        scores = simulation.draw_scores(kind, 200_000, np.random.default_rng(0))
        losses = 100 * (scores[0].mean() - scores[1:].mean(1))
        assert losses == pytest.approx(simulation.LOSSES, abs=0.2)
        correlations = np.corrcoef(scores)[0, 1:]
        assert correlations[0] == pytest.approx(0.985, abs=0.003)
        assert 0.7 < correlations.min() < 0.9
