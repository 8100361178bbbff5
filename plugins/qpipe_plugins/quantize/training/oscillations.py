"""Weights that go to and fro between two levels, frozen where they spend most of the time.

Source: Nagel et al. 2022 (arXiv 2203.11086): the frequency of changes of direction is a running
mean; where it exceeds a threshold, the weight stays at the level that is nearest to its running
mean.
"""

from __future__ import annotations

import torch

from qpipe.quant.in_torch.operator_table import Tensor
from qpipe_plugins.quantize.training.learned_weights import LearnedWeight
from qpipe_plugins.quantize.training.student import Student

MOMENTUM = 0.01  # of the running means
THRESHOLD = 0.02  # changes of direction a step


class Oscillations:
    """Watches the levels of a student's weights, and freezes those that oscillate."""

    def __init__(self, student: Student) -> None:
        self._watched = [_Watched(learned) for learned in student.weights.values()]

    def observe(self) -> None:
        """Look at the levels after a step."""
        for watched in self._watched:
            watched.observe()


class _Watched:
    """The levels of a weight so far."""

    def __init__(self, learned: LearnedWeight) -> None:
        self._learned = learned
        self._positions = learned.rounded()
        self._direction = torch.zeros_like(self._positions)
        self._frequency = torch.zeros_like(self._positions)
        self._mean = self._positions.clone()
        self._frozen: Tensor | None = None

    def observe(self) -> None:
        """Update the running means, and hold what is frozen."""
        positions = self._learned.rounded()
        change = torch.sign(positions - self._positions)
        is_reversal = (change * self._direction) < 0
        self._frequency.lerp_(is_reversal.to(positions.dtype), MOMENTUM)
        self._mean.lerp_(positions, MOMENTUM)
        self._direction = torch.where(change != 0, change, self._direction)
        self._positions = positions
        oscillates = self._frequency > THRESHOLD
        if self._frozen is None and not bool(oscillates.any()):
            return
        if self._frozen is None:
            self._frozen = torch.full_like(positions, torch.nan)
        is_new = oscillates & self._frozen.isnan()
        self._frozen = torch.where(is_new, self._mean.round(), self._frozen)
        self._learned.hold(self._frozen)
