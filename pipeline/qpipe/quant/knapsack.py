"""One option for each item, so that the sum of what they cost keeps to a budget: a knapsack, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qpipe.types import Array

CELLS = (
    1 << 15
)  # parts of the budget that are told apart where its own units are more; costs are rounded up to them


def least_damage(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: float
) -> list[int]:
    """The option of each item whose damages have the least sum, at costs whose sum keeps to the budget; where nothing
    does, the cheapest ones."""
    best, picked, steps = _table(costs, damages, budget)
    return (
        _trace(picked, steps, len(best) - 1)
        if np.isfinite(best[-1])
        else [int(np.argmin(each)) for each in costs]
    )


def cheapest(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], limit: float
) -> list[int]:
    """The option of each item whose costs have the least sum, at damages whose sum keeps to the limit; where nothing
    does, those of least damage."""
    most = sum(map(max, costs))
    best, picked, steps = _table(costs, damages, most * (1 + len(costs) / CELLS))
    within = np.flatnonzero(best <= limit)
    return _trace(picked, steps, int(within[0]) if within.size else int(best.argmin()))


def _table(
    costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: float
) -> tuple[Array, list[Array], list[Array]]:
    """The least damage within each number of steps, from none to those of the budget; of each item the option taken
    there, and what its options cost in steps."""
    unit = max(math.gcd(*(cost for each in costs for cost in each)), 1, budget / CELLS)
    best = np.zeros(int(budget / unit + 1e-9) + 1)
    picked = []
    steps = []
    for cost, damage in zip(costs, damages, strict=True):
        own = np.ceil(np.array(cost) / unit - 1e-9).astype(np.int64)
        options = np.full((len(own), len(best)), np.inf)
        for option, step in enumerate(own):
            options[option, step:] = best[: max(len(best) - step, 0)] + damage[option]
        picked.append(options.argmin(axis=0))
        best = options.min(axis=0)
        steps.append(own)
    return best, picked, steps


def _trace(picked: list[Array], steps: list[Array], cell: int) -> list[int]:
    chosen = []
    for options, own in zip(reversed(picked), reversed(steps), strict=True):
        chosen.append(int(options[cell]))
        cell -= int(own[chosen[-1]])
    return chosen[::-1]
