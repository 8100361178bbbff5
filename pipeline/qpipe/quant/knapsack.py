"""A multiple-choice knapsack, one option for each item, solved exactly by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qpipe.types import Array

# into how many steps a budget is divided at most; where costs are finer, they are rounded up
BUDGET_STEPS = 1 << 15

# step counts are quotients of floats: what differs by less is the same
TOLERANCE = 1e-9


def minimize_damage(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: float
) -> list[int]:
    """Return the option of each item with the least total damage at a total cost up to `budget`.

    `costs` and `damages` have a row per item and a column per option. Where no choice keeps to the
    budget, the cheapest options are returned.
    """
    table = _fill_table(costs, damages, budget)
    if not np.isfinite(table.least_damage[-1]):
        return [int(np.argmin(item_costs)) for item_costs in costs]
    return _trace_options(table, len(table.least_damage) - 1)


def minimize_cost(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], limit: float
) -> list[int]:
    """Return the option of each item with the least total cost at a total damage up to `limit`.

    Where no choice keeps to the limit, that of least damage is returned.
    """
    largest_cost = sum(max(item_costs) for item_costs in costs)
    table = _fill_table(costs, damages, largest_cost * (1 + len(costs) / BUDGET_STEPS))
    within_limit = np.flatnonzero(table.least_damage <= limit)
    if within_limit.size:
        return _trace_options(table, int(within_limit[0]))
    return _trace_options(table, int(table.least_damage.argmin()))


@dataclass(frozen=True, eq=False)
class _Table:
    """What dynamic programming leaves, over budgets of 0, 1, 2 ... steps."""

    least_damage: Array  # float64 [budgets]
    options: Sequence[Array]  # of each item the option taken, int [budgets]
    steps: Sequence[Array]  # of each item what its options cost, int [options]


def _fill_table(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: float
) -> _Table:
    all_costs = [cost for item_costs in costs for cost in item_costs]
    step_size = max(math.gcd(*all_costs), 1, budget / BUDGET_STEPS)
    least_damage = np.zeros(int(budget / step_size + TOLERANCE) + 1)
    budgets = len(least_damage)
    options = []
    steps = []
    for item_costs, item_damages in zip(costs, damages, strict=True):
        item_steps = np.ceil(np.array(item_costs) / step_size - TOLERANCE).astype(np.int64)
        totals = np.full((len(item_steps), budgets), np.inf)
        for option, step in enumerate(item_steps):
            totals[option, step:] = least_damage[: max(budgets - step, 0)] + item_damages[option]
        options.append(totals.argmin(axis=0))
        steps.append(item_steps)
        least_damage = totals.min(axis=0)
    return _Table(least_damage, options, steps)


def _trace_options(table: _Table, budget: int) -> list[int]:
    """Return the option of each item that led to the least damage at a budget, in steps."""
    options_from_last: list[int] = []
    for item_options, item_steps in zip(
        reversed(table.options), reversed(table.steps), strict=True
    ):
        option = int(item_options[budget])
        options_from_last.append(option)
        budget -= int(item_steps[option])
    return options_from_last[::-1]
