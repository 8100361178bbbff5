"""Quantized weights in training: positions between levels, scales, and biases in int32 steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from qpipe.quant import qdq
from qpipe.quant.arithmetic import along_axis, integer_range
from qpipe.quant.codebook import CODEBOOKS, Codebook, uniform
from qpipe.quant.in_torch.fake_quantization import straight_through
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import to_torch
from qpipe.quant.saturation import LARGEST_PAIR, Pairing
from qpipe.types import Array, Target

SMALLEST_MAGNITUDE = 1e-3  # of a bias, for its rate
LARGEST_LOG_FACTOR = 1.4  # a scale changes by a factor of 4 at most
# how far from its level a value starts at most; it rounds to another one from 0.5 on
MOST_IN_NEAREST = 0.49
MOST_IN_CHOSEN = 0.25


class LearnedWeight:
    """A quantized weight in training.

    `positions` are its values before rounding, in levels of the codebook: 2.4 is between the third
    level and the fourth, and rounds to the third. They start where the float weight is, as far as
    that rounds to the code. Where some codes are not the nearest, all start well within the cells
    of their codes: they were chosen together, and a few steps must not undo that. The scale is that
    which came in times exp(`log_factor`).
    """

    def __init__(
        self,
        weight: qdq.Weight,
        float_array: Array | None,
        codebook: Codebook,
        target: Target,
        device: str,
    ) -> None:
        quantized = weight.quantized
        assert quantized is not None
        self.quantized = quantized
        self.codebook = codebook
        ndim = weight.array.ndim
        scale = along_axis(quantized.scale.astype(np.float32), ndim, quantized.axis)
        zero_point = along_axis(quantized.zero_point.astype(np.float32), ndim, quantized.axis)
        levels = np.array(codebook.levels, np.float32)
        start = _indices(levels, quantized.codes.astype(np.float32))
        if float_array is not None and float_array.shape == start.shape:
            exact = _indices(levels, float_array / scale + zero_point)
            distance = np.abs(exact - start)
            most = MOST_IN_NEAREST if (distance <= 0.5).all() else MOST_IN_CHOSEN
            start = np.clip(exact, start - most, start + most)
        self._levels = to_torch(levels).to(device)
        self._is_even = bool((np.diff(levels) == 1).all())
        self._zero_point = to_torch(zero_point).to(device)
        self._initial_scale = to_torch(scale).to(device)
        self._pairs = _PairLimits(weight, weight.pairings(target), codebook, device)
        self.positions = to_torch(start).to(device).requires_grad_()
        learns_scale = not target.power_of_two_scales
        self.log_factor = torch.zeros_like(self._initial_scale).requires_grad_(learns_scale)
        # the part of rounding that applies: less than 1 where weights are quantized gradually
        self.strength = 1.0
        self.lowest: float | Tensor = 0.0  # of positions
        self.highest: float | Tensor = float(len(levels) - 1)

    @property
    def scale(self) -> Tensor:
        """The scale, shaped to broadcast to the weight."""
        return self._initial_scale * self.log_factor.exp()

    def rounded(self) -> Tensor:
        """Return the positions of the levels that the values are rounded to."""
        return self.positions.detach().round()

    def codes(self) -> Tensor:
        """Return the codes that the values are rounded to, as floats, zero point included."""
        return self._pairs.limit(self._steps_at(self.rounded()))

    def values(self) -> Tensor:
        """Return the weights that inference computes with."""
        exact = self._steps_at(self.positions)
        steps = self.codes()
        if self.strength < 1:
            steps = torch.lerp(exact.detach(), steps, self.strength)
        return (straight_through(exact, steps) - self._zero_point) * self.scale

    def _steps_at(self, positions: Tensor) -> Tensor:
        """Return the levels at positions, between levels by interpolation."""
        if self._is_even:
            return positions + self._levels[0]
        below = positions.detach().floor().long()
        above = (below + 1).clamp(max=len(self._levels) - 1)
        return torch.lerp(self._levels[below], self._levels[above], positions - below)

    def snap(self) -> None:
        """Put the values on the levels that they round to."""
        self.positions.data.copy_(self.rounded())

    def hold(self, positions: Tensor) -> None:
        """Put values at positions, but where these are NaN."""
        is_held = ~positions.isnan()
        self.positions.data[is_held] = positions[is_held]

    def limit_to_neighbours(self) -> None:
        """Let each value become one of the two levels around it, and no other."""
        below = self.positions.detach().floor()
        self.lowest = below
        self.highest = (below + 1).clamp(max=len(self._levels) - 1)

    def keep_within_limits(self) -> None:
        """Bring positions and scales back to where they may be."""
        self.positions.data.clamp_(self.lowest, self.highest)
        self.log_factor.data.clamp_(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)

    def to_quantized(self) -> qdq.QuantizedWeight:
        """Return what training made of the weight."""
        old = self.quantized
        codes = self.codes().cpu().numpy().astype(old.codes.dtype)
        scale = self.scale.detach().cpu().numpy().reshape(old.scale.shape).astype(np.float32)
        return replace(old, codes=codes, scale=scale, codebook=self.codebook)


def _indices(levels: Array, steps: Array) -> Array:
    """Return where steps are among the levels: between the second and the third is 1.5."""
    return np.interp(steps, levels, np.arange(len(levels))).astype(np.float32)


class _PairLimits:
    """Codes kept within what the target can sum in 16 bits: see `qpipe.quant.saturation`."""

    def __init__(
        self, weight: qdq.Weight, pairings: tuple[Pairing, ...], codebook: Codebook, device: str
    ) -> None:
        self._weight = weight
        is_needed = 2 * codebook.largest > LARGEST_PAIR
        self._pairs = [
            (
                torch.from_numpy(pairing.first.astype(np.int64)).to(device),
                torch.from_numpy(pairing.second.astype(np.int64)).to(device),
            )
            for pairing in pairings
            if is_needed
        ]

    def limit(self, codes: Tensor) -> Tensor:
        """Return codes with the sums of pairs within the rule, by the least change."""
        if not self._pairs:
            return codes
        axis = self._weight.channel_axis
        moved = codes.movedim(axis, 0)
        rows = moved.reshape(moved.shape[0], -1).clone()
        for first_places, second_places in self._pairs:
            first = rows[:, first_places]
            second = rows[:, second_places]
            total = first + second
            excess = total - total.clamp(-LARGEST_PAIR, LARGEST_PAIR)
            half = (excess / 2).floor()
            rows[:, first_places] = first - half
            rows[:, second_places] = second - (excess - half)
        return rows.reshape(moved.shape).movedim(0, axis)


# ---- the levels of a weight, whoever quantized it


def codebooks(weights: list[qdq.Weight]) -> list[Codebook]:
    """Return the codebook of each quantized weight.

    Of codebooks that qpipe does not know, the levels are those that are in use: by all weights
    that record the same one.
    """
    recorded = [_recorded_codebook(weight) for weight in weights]
    used: dict[tuple[str, int], set[int]] = {}
    for weight, key in zip(weights, recorded, strict=True):
        assert weight.quantized is not None
        used.setdefault(key, set()).update(np.unique(weight.quantized.codes.astype(int)).tolist())
    return [
        _codebook(*key, used[key], weight) for weight, key in zip(weights, recorded, strict=True)
    ]


def _recorded_codebook(weight: qdq.Weight) -> tuple[str, int]:
    """Return name and bits as the network records them; "" where it does not."""
    assert weight.quantized is not None
    producer = weight.value.producer()
    properties = {} if producer is None else producer.metadata_props
    return properties.get(qdq.CODEBOOK, ""), int(properties.get(qdq.BITS, qdq.FULL_BITS))


def _codebook(name: str, bits: int, used: set[int], weight: qdq.Weight) -> Codebook:
    if name in CODEBOOKS:
        return CODEBOOKS[name](bits)
    if name:
        return Codebook(name, bits, tuple(sorted(used)))
    assert weight.quantized is not None
    quantized = weight.quantized
    if quantized.codes.dtype == np.int8 and not quantized.zero_point.any() and min(used) > -128:
        return uniform(qdq.FULL_BITS)  # whoever leaves -128 out means to
    lowest, highest = integer_range(quantized.codes.dtype)
    return Codebook("full_range", qdq.FULL_BITS, tuple(range(lowest, highest + 1)))


# ---- biases


class LearnedBias:
    """The bias of a layer in training, rounded to the int32 steps that compile gives it."""

    def __init__(self, node: ir.Node, start: Array, device: str) -> None:
        self.node = node
        self.magnitude = float(np.abs(start).mean()) + SMALLEST_MAGNITUDE
        self.values = torch.from_numpy(np.array(start, np.float32)).to(device).requires_grad_()

    def rounded(self, step: Tensor | None) -> Tensor:
        """Return the bias in multiples of `step`, as it is without one."""
        if step is None:
            return self.values
        with torch.no_grad():
            rounding = (self.values / step).round() * step - self.values
        return self.values + rounding
