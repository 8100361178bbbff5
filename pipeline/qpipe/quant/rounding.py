"""Rounding weights to a codebook so that a layer's outputs, not its weights, change least.

Arrays are stacks of groups: weights [G, K, O] (what each of the O outputs of a group multiplies its
K inputs by) and Hessians [G, K, K], the second moments of these inputs. An output with target
weights t and rounded ones q errs by (t - q)^T H (t - q). Outputs do not depend on each other, so
everything is done for all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from qpipe.quant.codebook import Codebook, nearest
from qpipe.quant.saturation import LARGEST_PAIR, Pairing, limit_pairs, pair_sums, room_beside
from qpipe.types import Array

# what gets a scale of its own: nothing (scales stay), each output (per-channel), the whole tensor
ScaleFit = Literal["none", "output", "tensor"]

# inputs after which the error of those before is passed on to the rest of the weights
BLOCK = 64
SWEEPS = 2
# candidates, as factors of the scale that maps the largest weight to the largest level
SCALE_FACTORS = tuple(2 ** (k / 8) for k in range(-24, 5))


@dataclass(frozen=True, eq=False)
class Hessian:
    """Positive definite second moments, with what is derived from them once."""

    array: Array  # float64 [G, K, K]

    @property
    def diagonal(self) -> Array:
        """The variance of each input, [G, K]."""
        return np.diagonal(self.array, axis1=1, axis2=2)

    @cached_property
    def order(self) -> Array:
        """The inputs of each group [G, K], those with the largest variance first."""
        return np.argsort(-self.diagonal, axis=1, kind="stable")

    @cached_property
    def factor(self) -> Array:
        """The upper Cholesky factor of the inverse [G, K, K], inputs in that order."""
        rows = np.take_along_axis(self.array, self.order[:, :, np.newaxis], 1)
        ordered = np.take_along_axis(rows, self.order[:, np.newaxis, :], 2)
        return np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that weights may take.

    Scale and zero point [G, 1, O], or [G, K, O] where inputs differ in them. Codes of inputs that
    are paired keep to the rule of `saturation`.
    """

    codebook: Codebook
    scale: Array
    zero_point: Array
    pairings: tuple[Pairing, ...] = ()

    def steps(self, x: Array) -> Array:
        """Return the nearest values to weights [G, K, O], in units of the scale.

        They are codes less zero point, float64.
        """
        steps = self._nearest_steps(x)
        if not self.pairings:
            return steps
        return limit_pairs(steps + self.zero_point, self.pairings) - self.zero_point

    def nearest(self, x: Array) -> Array:
        """Return the nearest values to weights [G, K, O], float64."""
        values: Array = self.steps(x) * self.scale
        return values

    def nearest_of_inputs(self, x: Array, index: Array, codes: Array) -> tuple[Array, Array]:
        """Return the nearest values [G, 1, O] of one input of each group, and their codes.

        `index` [G, 1] says which inputs; `codes` [G, K, O] are those of all others.
        """
        grid = self._inputs(index)
        new_codes = grid._nearest_steps(x) + grid.zero_point
        for pairing in self.pairings:
            neighbour = pairing.neighbours[index]
            beside = np.take_along_axis(codes, neighbour[..., np.newaxis], 1)
            low, high = room_beside(np.where(neighbour[..., np.newaxis] < 0, 0, beside))
            new_codes = np.clip(new_codes, low, high)
        return (new_codes - grid.zero_point) * grid.scale, new_codes

    def _nearest_steps(self, x: Array) -> Array:
        steps = x / self.scale
        if not self.zero_point.any():
            return nearest(self.codebook, steps).astype(np.float64)
        low = self.codebook.levels[0] - self.zero_point
        high = self.codebook.levels[-1] - self.zero_point
        whole: Array = np.clip(np.rint(steps), low, high)
        return whole

    def _inputs(self, index: Array) -> Grid:
        """Return the grid of some inputs, n of each group: `index` is [G, n]."""
        if self.scale.shape[1] == 1:
            return self
        columns = index[..., np.newaxis]
        scale = np.take_along_axis(self.scale, columns, 1)
        zero_point = np.take_along_axis(self.zero_point, columns, 1)
        return replace(self, scale=scale, zero_point=zero_point)


def round_to_grid(
    target: Array, grid: Grid, hessian: Hessian, fit: ScaleFit = "none"
) -> tuple[Array, Array]:
    """Return the codes [G, K, O] for target weights [G, K, O], and the scales.

    With `fit` the scales are the best of each output or of the whole tensor, otherwise those of the
    grid.
    """
    if fit == "none":
        values = _descend(target, _compensate(target, grid, hessian), grid, hessian)
        return grid.steps(values) + grid.zero_point, grid.scale
    axes = (0, 1, 2) if fit == "tensor" else (1,)
    grid = replace(grid, scale=_search_scale(target, grid, hessian, axes))
    values = _descend(target, _compensate(target, grid, hessian), grid, hessian)
    steps = grid.steps(values)
    grid = replace(grid, scale=_least_squares_scale(target, steps, grid.scale, hessian, axes))
    values = _descend(target, steps * grid.scale, grid, hessian)
    return grid.steps(values) + grid.zero_point, grid.scale


def _compensate(target: Array, grid: Grid, hessian: Hessian) -> Array:
    """Return values rounded one input after the other, each making up for the errors before.

    Source: Frantar et al. 2022, GPTQ (arXiv:2210.17323): the optimal brain surgeon (Hassibi, Stork
    1992) with one order for all outputs.
    """
    order = hessian.order
    factor = hessian.factor
    remaining = np.take_along_axis(target, order[..., np.newaxis], 1)
    codes = np.zeros_like(target)
    rounded = np.empty_like(remaining)
    inputs = remaining.shape[1]
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.empty((len(remaining), stop - start, remaining.shape[2]))
        for j in range(start, stop):
            column = remaining[:, j : j + 1]
            index = order[:, j : j + 1]
            value, code = grid.nearest_of_inputs(column, index, codes)
            np.put_along_axis(codes, index[..., np.newaxis], code, 1)
            error = (column - value)[:, 0] / factor[:, j, j, np.newaxis]
            later_factors = factor[:, j, j + 1 : stop, np.newaxis]
            remaining[:, j + 1 : stop] -= later_factors * error[:, np.newaxis]
            rounded[:, j : j + 1] = value
            errors[:, j - start] = error
        remaining[:, stop:] -= factor[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    original_order = np.argsort(order, axis=1)[..., np.newaxis]
    return np.take_along_axis(rounded, original_order, 1)


def _descend(target: Array, values: Array, grid: Grid, hessian: Hessian) -> Array:
    """Return values that hardly any change of a single one improves, never worse than those given.

    Coordinate descent, a few times over all inputs. Source: Behdin et al. 2023, QuantEase
    (arXiv:2309.01885).
    """
    values = values.copy()
    codes = grid.steps(values) + grid.zero_point
    curvature = hessian.array
    diagonal = hessian.diagonal
    groups, inputs, _ = values.shape
    gradient = curvature @ (target - values)
    for _ in range(SWEEPS):
        before = values.copy()
        for start in range(0, inputs, BLOCK):
            stop = min(start + BLOCK, inputs)
            block = gradient[:, start:stop].copy()
            for j in range(start, stop):
                current = values[:, j : j + 1]
                step = block[:, j - start, np.newaxis] / diagonal[:, j, np.newaxis, np.newaxis]
                index = np.full((groups, 1), j)
                best, code = grid.nearest_of_inputs(current + step, index, codes)
                move = best - current
                if move.any():
                    codes[:, j : j + 1] = code
                    values[:, j : j + 1] += move
                    block -= curvature[:, start:stop, j, np.newaxis] * move
            change = values[:, start:stop] - before[:, start:stop]
            gradient -= curvature[:, :, start:stop] @ change
        if np.array_equal(before, values):
            break
    return values


# ---- scales: `axes` are those that share one scale


def _search_scale(target: Array, grid: Grid, hessian: Hessian, axes: tuple[int, ...]) -> Array:
    """Return the candidate scale that leaves the least error of rounding to nearest.

    Each input's error is weighted by the input's variance.
    """
    initial = grid.scale
    if not grid.zero_point.any():
        minmax = np.abs(target).max(axis=axes, keepdims=True) / grid.codebook.largest
        if grid.pairings:
            sums = np.abs(pair_sums(target, grid.pairings))
            minmax = np.maximum(minmax, sums.max(axis=axes, keepdims=True) / LARGEST_PAIR)
        initial = np.where(minmax > np.finfo(np.float32).tiny, minmax, grid.scale)
    best = initial
    least_error = np.full(grid.scale.shape, np.inf)
    variance = hessian.diagonal[..., np.newaxis]
    for factor in SCALE_FACTORS:
        scale = _as_float32(initial * factor)
        difference = target - replace(grid, scale=scale).nearest(target)
        error = np.sum(variance * difference**2, axis=axes, keepdims=True)
        best = np.where(error < least_error, scale, best)
        least_error = np.minimum(error, least_error)
    return best


def _least_squares_scale(
    target: Array, steps: Array, scale: Array, hessian: Hessian, axes: tuple[int, ...]
) -> Array:
    """Return the scale s with the least error of s times the steps c: c^T H t / c^T H c.

    Where that is not positive, the scale stays.
    """
    weighted = hessian.array @ steps
    numerator = np.sum(weighted * target, axis=axes, keepdims=True)
    denominator = np.sum(weighted * steps, axis=axes, keepdims=True)
    is_positive = (numerator > 0) & (denominator > 0)
    quotient = numerator / np.where(is_positive, denominator, 1)
    return _as_float32(np.where(is_positive, quotient, scale))


def _as_float32(scale: Array) -> Array:
    """Return float64 scales rounded to float32, as the network will hold them."""
    return scale.astype(np.float32).astype(np.float64)
