"""Blocks of a network trained one after the other to give what the float network gives there.

Sources: Li et al. 2021, BRECQ (arXiv 2102.05426): blocks in place of layers, each fed what the
blocks before it really give; Hubara et al. 2020, AdaQuant (arXiv 2006.10518): weights and scales
trained together, by gradients that pass through rounding; Nagel et al. 2020, AdaRound
(arXiv 2004.10568): each weight takes one of the two levels around it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import TorchNetwork, to_torch
from qpipe.quant.piecewise_inference import MemoryBudget, SpillingArrays
from qpipe.quant.sensitivity import decibels
from qpipe.samples.store import Samples
from qpipe.types import Progress, Target
from qpipe_plugins.quantize.output_noise import OutputNoise
from qpipe_plugins.quantize.training.distilled import better_of
from qpipe_plugins.quantize.training.network_blocks import Block, find_blocks
from qpipe_plugins.quantize.training.sample_batches import SampleBatches
from qpipe_plugins.quantize.training.student import Student
from qpipe_plugins.quantize.training.torch_setup import torch_setup
from qpipe_plugins.quantize.training.training_loop import optimizer_of
from qpipe_plugins.quantize.training_extra import held_out_indices, used_samples

TINY = 1e-12

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconstructionOptions:
    """How blocks are trained."""

    steps: int  # of each block
    layers: int  # of a block, at least
    rate: float  # of weights, in levels
    scale_rate: float
    batch: int
    samples: int | None  # how many are used; all where it is None
    seed: int
    memory_mb: int
    threads: int


def reconstruct_network(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    options: ReconstructionOptions,
    target: Target,
    workdir: Path,
    progress: Progress,
    *,
    where: str,
) -> ir.Model:
    """Return the QDQ network trained block by block, or as it came in where that is no better."""
    count = used_samples(samples, options.samples)
    held_out = held_out_indices(count)
    trained = sorted(set(range(count)) - set(held_out))
    with torch_setup(options.threads, options.seed, where) as device:
        student = Student(model, float_model, target, where, device=device)
        teacher = TorchNetwork(float_model, device=device)
        batches = SampleBatches(samples, teacher, options.batch)
        reconstruction = Reconstruction(
            student,
            teacher,
            batches,
            options,
            trained=trained,
            held_out=held_out,
            workdir=workdir,
            where=where,
        )
        reconstruction.train(progress)
        result = student.to_model()
    noise = OutputNoise(samples, held_out, float_model, threads=options.threads)
    return better_of(model, result, noise.of, where)


class Reconstruction:
    """Student and teacher computed block by block, with what passes between blocks stored."""

    def __init__(
        self,
        student: Student,
        teacher: TorchNetwork,
        batches: SampleBatches,
        options: ReconstructionOptions,
        *,
        trained: Sequence[int],
        held_out: Sequence[int],
        workdir: Path,
        where: str,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._batches = batches
        self._options = options
        self._trained = range(len(trained))  # places of samples in what is stored
        self._held_out = range(len(trained), len(trained) + len(held_out))
        self._samples = [*trained, *held_out]
        self._budget = MemoryBudget(workdir, options.memory_mb << 20)
        self._where = where
        self._stored: dict[ir.Value, SpillingArrays] = {}
        self._generator = torch.Generator().manual_seed(options.seed)

    def train(self, progress: Progress) -> None:
        """Train the blocks in order; one that gets worse on held-out samples stays as it was."""
        blocks = find_blocks(self._student, self._teacher, self._options.layers)
        for index, block in enumerate(blocks):
            self._store_results_of(block, of_student=False)
            before = self._noise(block)
            state = self._student.state()
            for done, loss in self._train_block(block):
                progress(round(index + done, 2), len(blocks), f"blocks, loss {loss:.3g}")
            after = self._noise(block)
            if not after < before:
                self._student.load(state)
            log.warning(
                "%s: block %d of %d, %d weights: %.2f dB before, %.2f dB afterwards%s",
                self._where,
                index + 1,
                len(blocks),
                len(block.weights),
                decibels(before),
                decibels(after),
                "" if after < before else "; it stays as it was",
            )
            self._store_results_of(block, of_student=True)
            self._free_all_but(blocks[index + 1 :])

    # ---- one block

    def _train_block(self, block: Block) -> Iterator[tuple[float, float]]:
        """Train a block; yield after each step which part is done, and the loss."""
        options = self._options
        weights = [self._student.weights[weight] for weight in block.weights]
        for learned in weights:
            learned.limit_to_neighbours()
        biases = [
            self._student.biases[node]
            for weight in block.weights
            for node in weight.nodes
            if node in self._student.biases
        ]
        optimizer = optimizer_of(
            weights, biases, block.ranges, rate=options.rate, scale_rate=options.scale_rate
        )
        for step, places in enumerate(self._random_places()):
            done = step / options.steps
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * done))
            distance = self._distance(block, places)
            optimizer.zero_grad()
            distance.backward()
            optimizer.step()
            self._student.keep_within_limits()
            yield done, distance.item()

    def _random_places(self) -> Iterator[list[int]]:
        size = min(self._batches.size, len(self._trained))
        for _ in range(self._options.steps):
            order = torch.randperm(len(self._trained), generator=self._generator)
            yield order[:size].tolist()

    def _distance(self, block: Block, places: Sequence[int]) -> Tensor:
        """Return how far the results of a block are from the teacher's: noise over signal."""
        actual = self._compute(block, places, of_student=True)
        total = torch.zeros(())
        for result in block.results:
            expected = self._load(result.teacher, places)
            difference = (actual[result.student] - expected).square().sum()
            total = total + difference / (expected.square().sum() + TINY)
        return total / len(block.results)

    def _noise(self, block: Block) -> float:
        """Return the distance on held-out samples."""
        distances = []
        with torch.no_grad():
            for places in _chunks(self._held_out, self._batches.size):
                distances.append(self._distance(block, places).item())
        return sum(distances) / len(distances)

    # ---- what passes between blocks

    def _compute(
        self, block: Block, places: Sequence[int], *, of_student: bool
    ) -> dict[ir.Value, Tensor]:
        """Return the results of a block, in the student or in the teacher."""
        network = self._student.network if of_student else self._teacher
        sources: dict[ir.Value, Tensor] = {}
        feeds = None
        for source in block.sources:
            value = source.student if of_student else source.teacher
            if value in self._stored:
                sources[value] = self._load(value, places)
                continue
            if feeds is None:
                feeds = self._batches.of([self._samples[place] for place in places])
            sources[value] = feeds[value.name or ""]
        results = [each.student if of_student else each.teacher for each in block.results]
        return network.compute(sources, results)

    def _store_results_of(self, block: Block, *, of_student: bool) -> None:
        values = [each.student if of_student else each.teacher for each in block.results]
        arrays = {value: SpillingArrays(self._budget) for value in values}
        with torch.no_grad():
            for places in _chunks(range(len(self._samples)), self._batches.size):
                tensors = self._compute(block, places, of_student=of_student)
                for value, spilling in arrays.items():
                    for part in tensors[value].split(len(tensors[value]) // len(places)):
                        spilling.append(part.cpu().numpy().copy())
        self._stored.update(arrays)

    def _load(self, value: ir.Value, places: Sequence[int]) -> Tensor:
        arrays = [to_torch(self._stored[value][place]) for place in places]
        return torch.cat(arrays).to(self._teacher.device)

    def _free_all_but(self, blocks: Sequence[Block]) -> None:
        """Give back what no later block reads."""
        needed = set()
        for block in blocks:
            for source in block.sources:
                needed |= {source.student, source.teacher}
        for value in [value for value in self._stored if value not in needed]:
            self._stored.pop(value).close()


def _chunks(places: Sequence[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(places), size):
        yield list(places[first : first + size])
