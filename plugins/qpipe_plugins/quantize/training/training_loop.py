"""The loop of training: batches, rates, scores on held-out samples, and the best state of all.

A state is written to a file at each score, so that a run that was ended continues where it was.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.sensitivity import decibels
from qpipe.types import Progress
from qpipe_plugins.quantize.training.learned_ranges import LearnedRange
from qpipe_plugins.quantize.training.learned_weights import LearnedBias, LearnedWeight
from qpipe_plugins.quantize.training.oscillations import Oscillations
from qpipe_plugins.quantize.training.sample_batches import Feeds, SampleBatches
from qpipe_plugins.quantize.training.student import State, Student

SCORES = 20  # in a run at most, beside the one at its start
STEPS_A_SCORE = 2  # at least, for each batch that a score takes
DIVERGED = 10.0  # times the noise of the start
SLOWER = 0.3  # of the rate, from the best state on, where training diverged
MOST_RESTARTS = 3  # after divergence
SNAP_EVERY = 25  # steps, of training and quantizing in turns
BETAS = (0.9, 0.99)
BIAS_RATE = 0.125  # of the rate of weights, in parts of the mean magnitude of a layer's biases

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long training takes, and at which rates.

    Rates are of Adam, so about what a value changes by in a step: `rate` of weights, in levels,
    `scale_rate` of scales, in parts of themselves.
    """

    minutes: float | None
    epochs: int | None
    rate: float
    scale_rate: float
    warm_restarts: int = 0
    gradual: float = 0.0  # part of the budget in which weights are quantized more and more
    freezes: bool = True  # weights that oscillate
    # a constant rate, and weights that are float but every SNAP_EVERY steps
    is_naive: bool = False
    seed: int = 0

    def factor(self, done: float) -> float:
        """Return the part of the rate at this part of the budget: cosine with warm restarts.

        Source: Loshchilov, Hutter 2017, SGDR (arXiv 1608.03983).
        """
        if self.is_naive:
            return 1.0
        cycles = self.warm_restarts + 1
        in_cycle = min(done, 1.0) * cycles % 1.0 if done < 1 else 1.0
        return 0.5 * (1 + math.cos(math.pi * in_cycle))


@dataclass
class _Position:
    """Where training is; all of it is written to the file."""

    step: int = 0
    seconds: float = 0.0  # of steps and scores
    scored: int = 0  # scores, the one at the start included
    losses: list[float] = field(default_factory=list)  # since the last score
    slowdown: float = 1.0
    divergences: int = 0
    best_noise: float = math.inf
    start_noise: float = math.inf
    curve: list[tuple[int, float | None, float]] = field(default_factory=list)


class TrainingLoop:
    """Trains a student by the gradient of a loss, and keeps the state with the best score.

    `noise` is the score, see `Distillation.noise`. The state goes to `file` at each score.
    """

    def __init__(
        self,
        student: Student,
        loss: Callable[[Feeds], Tensor],
        noise: Callable[[], float],
        schedule: Schedule,
        *,
        where: str,
        file: Path,
        progress: Progress,
        score_batches: int = 1,
    ) -> None:
        self._least_steps = STEPS_A_SCORE * score_batches
        self._student = student
        self._loss = loss
        self._noise = noise
        self._schedule = schedule
        self._where = where
        self._file = file
        self._progress = progress
        self._generator = torch.Generator().manual_seed(schedule.seed)
        self._optimizer = optimizer_of(
            student.weights.values(),
            student.biases.values(),
            student.ranges,
            rate=schedule.rate,
            scale_rate=schedule.scale_rate,
        )
        self._oscillations = Oscillations(student) if schedule.freezes else None
        self._position = _Position()
        self._best: State = {}
        self._steps_an_epoch = 1

    @property
    def curve(self) -> list[tuple[int, float | None, float]]:
        """The scores so far: step, mean loss since the score before, SQNR in dB.

        They hold no times, for the seed decides all that training gives.
        """
        return self._position.curve

    def train(self, batches: SampleBatches, indices: Sequence[int]) -> None:
        """Train on some samples until the budget is used up; the student is at its best then."""
        self._steps_an_epoch = -(-len(indices) // batches.size)
        if not self._resume():
            self._position.start_noise = self._score()
        while not self._is_over():
            for parts in batches.shuffled(indices, self._generator):
                self._step(parts)
                if self._is_score_due():
                    self._score()
                if self._is_over():
                    break
        if self._schedule.is_naive:
            self._student.snap()
        else:
            self._student.load(self._best)
        self._student.soften(1.0)

    def _done(self) -> float:
        """Return which part of the budget is used."""
        schedule = self._schedule
        done = 0.0
        if schedule.epochs is not None:
            done = self._position.step / (schedule.epochs * self._steps_an_epoch)
        if schedule.minutes is not None:
            done = max(done, self._position.seconds / (60 * schedule.minutes))
        return done

    def _is_over(self) -> bool:
        return self._done() >= 1 or self._position.divergences > MOST_RESTARTS

    def _is_score_due(self) -> bool:
        if self._done() >= 1:
            return True
        steps_since = self._position.step - self._position.curve[-1][0]
        return steps_since >= self._least_steps and self._done() * SCORES >= self._position.scored

    # ---- one step

    def _step(self, parts: Sequence[Feeds]) -> None:
        start = time.monotonic()
        schedule = self._schedule
        done = self._done()
        factor = schedule.factor(done) * self._position.slowdown
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        self._student.soften(1.0 if done >= schedule.gradual else done / schedule.gradual)
        if schedule.is_naive:
            self._student.soften(0.0)
        self._optimizer.zero_grad()
        number = self._add_gradients(parts)
        self._optimizer.step()
        self._student.keep_within_limits()
        self._position.step += 1
        if schedule.is_naive and self._position.step % SNAP_EVERY == 0:
            self._student.snap()
        if self._oscillations is not None:
            self._oscillations.observe()
        self._position.losses.append(number)
        self._position.seconds += time.monotonic() - start
        self._report(number, factor)
        if not math.isfinite(number):
            self._return_to_best(f"loss {number} at step {self._position.step}")

    def _add_gradients(self, parts: Sequence[Feeds]) -> float:
        """Add the gradients of the mean loss over the parts of a batch; return that loss."""
        total = 0.0
        for part in parts:
            loss = self._loss(part) / len(parts)
            loss.backward()
            total += loss.item()
        return total

    def _report(self, loss: float, factor: float) -> None:
        done = round(min(100 * self._done(), 100), 1)
        rate = self._schedule.rate * factor
        self._progress(done, 100, f"%, loss {loss:.3g}, rate {rate:.2g}")

    # ---- scores and states

    def _score(self) -> float:
        """Score the student, keep it if it is the best, and write the state to the file."""
        position = self._position
        start = time.monotonic()
        self._student.soften(1.0)
        noise = self._noise()
        position.seconds += time.monotonic() - start
        loss = sum(position.losses) / len(position.losses) if position.losses else None
        position.losses.clear()
        position.scored = math.floor(self._done() * SCORES) + 1
        position.curve.append((position.step, loss, decibels(noise)))
        if noise < position.best_noise or not self._best:
            position.best_noise = noise
            self._best = self._student.state()
        log.warning(
            "%s: step %d, %.0f s: loss %s, outputs at %.2f dB on held-out samples",
            self._where,
            position.step,
            position.seconds,
            "none yet" if loss is None else f"{loss:.4g}",
            decibels(noise),
        )
        if not noise < DIVERGED * max(position.start_noise, position.best_noise):
            self._return_to_best(f"outputs at {decibels(noise):.1f} dB")
        self._write()
        return noise

    def _return_to_best(self, symptom: str) -> None:
        """Go back to the best state where training diverged, and go on more slowly."""
        position = self._position
        position.divergences += 1
        position.slowdown *= SLOWER
        position.losses.clear()
        self._student.load(self._best)
        self._optimizer.state.clear()
        log.warning(
            "%s: training diverged (%s): back to the best state, at %.2g times the rate",
            self._where,
            symptom,
            position.slowdown,
        )

    def _write(self) -> None:
        state = {
            "position": asdict(self._position),
            "best": self._best,
            "student": self._student.state(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }
        temporary = self._file.with_suffix(".new")
        torch.save(state, temporary)
        temporary.replace(self._file)

    def _resume(self) -> bool:
        """Go on from the file's state, if there is one."""
        if not self._file.is_file():
            return False
        state: dict[str, Any] = torch.load(self._file, weights_only=True)
        self._position = _Position(**state["position"])
        self._best = state["best"]
        self._student.load(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        if self._oscillations is not None:  # what it saw so far are the weights of the start
            self._oscillations = Oscillations(self._student)
        log.warning("%s: goes on at step %d", self._where, self._position.step)
        return True


def optimizer_of(
    weights: Collection[LearnedWeight],
    biases: Collection[LearnedBias],
    ranges: Collection[LearnedRange],
    *,
    rate: float,
    scale_rate: float,
) -> Any:
    """Return Adam with a rate for each kind of tensor; `rate` of a group is that at full speed.

    Adam's steps are about as large as the rate, whatever the gradient.
    """
    groups: list[dict[str, Any]] = [
        {"params": [learned.positions for learned in weights], "rate": rate}
    ]
    if scale_rate:
        factors = [learned.log_factor for learned in weights]
        factors += [learned.log_factor for learned in ranges]
        learned_factors = [factor for factor in factors if factor.requires_grad]
        groups.append({"params": learned_factors, "rate": scale_rate})
    bias_rate = BIAS_RATE * rate
    groups += [{"params": [bias.values], "rate": bias_rate * bias.magnitude} for bias in biases]
    return torch.optim.Adam([group for group in groups if group["params"]], betas=BETAS, fused=True)
