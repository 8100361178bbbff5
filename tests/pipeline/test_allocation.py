"""Against all combinations, tried one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qpipe.quant.knapsack import BUDGET_STEPS, minimize_cost, minimize_damage


def random_items(seed, largest, items=6, options=3):
    random = np.random.default_rng(seed)
    costs = np.sort(random.integers(0, largest, (items, options)), axis=1)
    damages = np.sort(random.exponential(1, (items, options)), axis=1)[:, ::-1]
    return costs.tolist(), damages.tolist()


def total(table, choice):
    return sum(row[option] for row, option in zip(table, choice, strict=True))


def choices(costs):
    return product(*(range(len(each)) for each in costs))


@pytest.mark.parametrize("seed", range(10))
def test_the_least_damage_within_a_budget_is_found(seed):
    costs, damages = random_items(seed, 100)
    budget = total(costs, [1] * 6)
    chosen = minimize_damage(costs, damages, budget)
    assert total(costs, chosen) <= budget
    best = min(total(damages, each) for each in choices(costs) if total(costs, each) <= budget)
    assert total(damages, chosen) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
def test_the_least_cost_within_a_damage_is_found(seed):
    costs, damages = random_items(seed, 100)
    limit = total(damages, [1] * 6)
    chosen = minimize_cost(costs, damages, limit)
    assert total(damages, chosen) <= limit + 1e-12
    assert total(costs, chosen) == min(
        total(costs, each) for each in choices(costs) if total(damages, each) <= limit
    )


@pytest.mark.parametrize("seed", range(5))
def test_costs_too_large_to_tell_apart_keep_to_the_budget_and_lose_next_to_nothing(seed):
    costs, damages = random_items(seed, 10**9)
    budget = total(costs, [1] * 6)
    chosen = minimize_damage(costs, damages, budget)
    assert total(costs, chosen) <= budget
    narrower = budget * (1 - 6 / BUDGET_STEPS)
    best = min(total(damages, each) for each in choices(costs) if total(costs, each) <= narrower)
    assert total(damages, chosen) <= best + 1e-12


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_count_of_items_is_used_up(count):
    random = np.random.default_rng(0)
    damages = [[float(each), 0.0] for each in random.permutation(np.arange(1, 21))]
    chosen = minimize_damage([[0, 1]] * 20, damages, count)
    assert {damages[i][0] for i, option in enumerate(chosen) if option} == set(
        range(21 - count, 21)
    )


def test_where_nothing_keeps_to_the_budget_the_cheapest_are_taken():
    assert minimize_damage([[3, 2], [5, 9]], [[0.0, 1.0], [1.0, 0.0]], 6) == [1, 0]


def test_where_nothing_keeps_to_the_damage_the_least_is_taken():
    assert minimize_cost([[1, 2], [1, 2]], [[5.0, 1.0], [5.0, 1.0]], 0.5) == [1, 1]


def test_what_does_no_damage_costs_nothing():
    assert minimize_cost([[1, 2], [4, 8]], [[0.0, 0.0], [0.0, 0.0]], 0.0) == [0, 0]
