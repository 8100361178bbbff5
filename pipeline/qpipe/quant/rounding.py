"""Rounding weights to a codebook so that what a layer puts out, not its weights, changes least.

Arrays are stacks of groups: weights [G, K, O] (what each of the O outputs of a group multiplies its K inputs by) and
Hessians [G, K, K], the second moments of these inputs. An output that wants t and gets q errs by (t - q)^T H (t - q).
Outputs do not depend on each other, so that everything here is done for all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from qpipe.quant.codebook import Codebook, nearest
from qpipe.types import Array

Fit = Literal["none", "output", "tensor"]
BLOCK = 64  # inputs after which what is left of the weights is brought up to date
SWEEPS = 2
CANDIDATES = tuple(
    2 ** (k / 8) for k in range(-24, 5)
)  # parts of the scale that the largest weight asks for


@dataclass(frozen=True, eq=False)
class Hessian:
    """Positive definite second moments, with what is derived from them once."""

    array: Array  # float64 [G, K, K]

    @property
    def diagonal(self) -> Array:
        """[G, K]."""
        return np.diagonal(self.array, axis1=1, axis2=2)

    @cached_property
    def order(self) -> Array:
        """The inputs of each group [G, K], those that vary most first."""
        return np.argsort(-self.diagonal, axis=1, kind="stable")

    @cached_property
    def factor(self) -> Array:
        """The upper Cholesky factor of the inverse, inputs in that order."""
        rows = np.take_along_axis(self.array, self.order[:, :, np.newaxis], 1)
        ordered = np.take_along_axis(rows, self.order[:, np.newaxis, :], 2)
        return np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that weights may take; scale and zero point [G, 1, O], or [G, K, O] where inputs differ in them."""

    codebook: Codebook
    scale: Array
    zero_point: Array

    def steps(self, x: Array) -> Array:
        """The nearest values in units of the scale: codes less zero point, float64."""
        steps = x / self.scale
        if not self.zero_point.any():
            return nearest(self.codebook, steps).astype(np.float64)
        low = self.codebook.levels[0]
        high = self.codebook.levels[-1]
        whole: Array = np.clip(np.rint(steps), low - self.zero_point, high - self.zero_point)
        return whole

    def nearest(self, x: Array) -> Array:
        """The nearest values."""
        values: Array = self.steps(x) * self.scale
        return values

    def inputs(self, index: Array) -> Grid:
        """The grid of some inputs, [G, n] of them."""
        if self.scale.shape[1] == 1:
            return self
        scale, zero_point = (
            np.take_along_axis(p, index[..., np.newaxis], 1) for p in (self.scale, self.zero_point)
        )
        return replace(self, scale=scale, zero_point=zero_point)


def rounded(target: Array, grid: Grid, hessian: Hessian, fit: Fit = "none") -> tuple[Array, Array]:
    """The codes [G, K, O] chosen for the targets, and the scales: those given, or the best of each output (per-channel)
    or of the whole tensor."""
    if fit != "none":
        grid = replace(grid, scale=_weighted_scale(target, grid, hessian, fit == "tensor"))
    values = _settled(target, _compensated(target, grid, hessian), grid, hessian)
    if fit != "none":
        steps = grid.steps(values)
        grid = replace(
            grid, scale=_least_squares(target, steps, grid.scale, hessian, fit == "tensor")
        )
        values = _settled(target, steps * grid.scale, grid, hessian)
    return grid.steps(values) + grid.zero_point, grid.scale


def _compensated(target: Array, grid: Grid, hessian: Hessian) -> Array:
    """Values for the targets, rounded one input at a time, each making up for the rounding of those before.

    Method: Frantar et al. 2022, GPTQ (arXiv 2210.17323): the optimal brain surgeon (Hassibi, Stork 1992) in one order.
    """
    order = hessian.order
    factor = hessian.factor
    left = np.take_along_axis(target, order[..., np.newaxis], 1)
    chosen = np.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        errors = np.empty((len(left), stop - start, left.shape[2]))
        for j in range(start, stop):
            one = left[:, j : j + 1]
            chosen[:, j : j + 1] = value = grid.inputs(order[:, j : j + 1]).nearest(one)
            errors[:, j - start] = away = (one - value)[:, 0] / factor[:, j, j, np.newaxis]
            left[:, j + 1 : stop] -= factor[:, j, j + 1 : stop, np.newaxis] * away[:, np.newaxis]
        left[:, stop:] -= factor[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    return np.take_along_axis(chosen, np.argsort(order, axis=1)[..., np.newaxis], 1)


def _settled(target: Array, values: Array, grid: Grid, hessian: Hessian) -> Array:
    """Values that hardly any change of a single one betters: coordinate descent, a few times over all inputs.

    Method: Behdin et al. 2023, QuantEase (arXiv 2309.01885). Never worse than what it starts from.
    """
    values = values.copy()
    curvature = hessian.array
    diagonal = hessian.diagonal
    pull = curvature @ (target - values)
    for _ in range(SWEEPS):
        before = values.copy()
        for start in range(0, values.shape[1], BLOCK):
            stop = min(start + BLOCK, values.shape[1])
            block = pull[:, start:stop].copy()
            for j in range(start, stop):
                old = values[:, j : j + 1]
                wanted = (
                    old + block[:, j - start, np.newaxis] / diagonal[:, j, np.newaxis, np.newaxis]
                )
                move = grid.inputs(np.full((len(values), 1), j)).nearest(wanted) - old
                if move.any():
                    values[:, j : j + 1] += move
                    block -= curvature[:, start:stop, j, np.newaxis] * move
            pull -= curvature[:, :, start:stop] @ (values[:, start:stop] - before[:, start:stop])
        if np.array_equal(before, values):
            break
    return values


# ---- scales


def _weighted_scale(target: Array, grid: Grid, hessian: Hessian, shared: bool) -> Array:
    """The candidate that, rounding to nearest, leaves the least error with each input weighted by its variance."""
    axes = (0, 1, 2) if shared else (1,)
    top = np.abs(target).max(axis=axes, keepdims=True) / grid.codebook.largest
    start = (
        np.where(top > np.finfo(np.float32).tiny, top, grid.scale)
        if not grid.zero_point.any()
        else grid.scale
    )
    best = start
    least = np.full(grid.scale.shape, np.inf)
    for part in CANDIDATES:
        scale = _single(start * part)
        away = target - replace(grid, scale=scale).nearest(target)
        error = np.sum(hessian.diagonal[..., np.newaxis] * away**2, axis=axes, keepdims=True)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _least_squares(
    target: Array, steps: Array, scale: Array, hessian: Hessian, shared: bool
) -> Array:
    """The scale s with the least error of s times the steps c: c^T H t / c^T H c; as it was where that is nothing."""
    axes = (0, 1, 2) if shared else (1,)
    seen = hessian.array @ steps
    wanted, square = (np.sum(seen * other, axis=axes, keepdims=True) for other in (target, steps))
    fits = (wanted > 0) & (square > 0)
    return _single(np.where(fits, wanted / np.where(fits, square, 1), scale))


def _single(scale: Array) -> Array:
    """As float32 holds it."""
    return scale.astype(np.float32).astype(np.float64)
