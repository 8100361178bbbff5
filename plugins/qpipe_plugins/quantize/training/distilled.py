"""Training of a whole network by distillation: what `qat` does once its options are known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import TorchNetwork, to_torch
from qpipe.quant.sensitivity import decibels
from qpipe.quant.training_curve import set_training_curve
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress, Target
from qpipe_plugins.quantize.output_noise import OutputNoise
from qpipe_plugins.quantize.training.augmentation import Augmentation
from qpipe_plugins.quantize.training.distillation import Distillation
from qpipe_plugins.quantize.training.sample_batches import Feeds, SampleBatches
from qpipe_plugins.quantize.training.saved_memory import samples_that_fit
from qpipe_plugins.quantize.training.student import Student
from qpipe_plugins.quantize.training.torch_setup import torch_setup
from qpipe_plugins.quantize.training.training_loop import Schedule, TrainingLoop
from qpipe_plugins.quantize.training_extra import Change, held_out_indices, used_samples

STATE = "training.pt"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained."""

    schedule: Schedule
    features: float  # what tensors between layers weigh beside the outputs
    classes: tuple[str, ...]  # outputs that hold scores of classes
    augment: tuple[Change, ...]
    batch: int
    memory_mb: int
    samples: int | None  # how many are used; all where it is None
    threads: int


def train_network(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    options: TrainingOptions,
    target: Target,
    workdir: Path,
    progress: Progress,
    *,
    where: str,
) -> ir.Model:
    """Return the QDQ network trained, or as it came in where training did not bring it closer.

    The state of training lies in `workdir`, so that it continues where it was ended.
    """
    with torch_setup(options.threads, options.schedule.seed, where) as device:
        student = Student(model, float_model, target, where, device=device)
        teacher = TorchNetwork(float_model, device=device)
        inputs = [value.name or "" for value in float_model.graph.inputs]
        augment = Augmentation(options.augment, samples.preprocessing, inputs, where)
        batches = SampleBatches(samples, teacher, options.batch, augment)
        count = used_samples(samples, options.samples)
        held_out = held_out_indices(count)
        trained = sorted(set(range(count)) - set(held_out))
        distillation = Distillation(
            student,
            teacher,
            options.features,
            where,
            classes=options.classes,
            samples=batches.in_order(held_out),
        )
        first = batches.of(trained[:1])
        check_gradients(student, distillation, first, where)
        batches.limit(samples_that_fit(distillation.loss, first, options.memory_mb << 20))
        loop = TrainingLoop(
            student,
            distillation.loss,
            lambda: distillation.noise(batches.in_order(held_out)),
            options.schedule,
            where=where,
            file=workdir / STATE,
            progress=progress,
            score_batches=-(-len(held_out) // batches.size),
        )
        loop.train(batches, trained)
        result = student.to_model()
    outputs = OutputNoise(samples, held_out, float_model, threads=options.threads)

    def noise(network: ir.Model) -> float:
        pairs = zip(outputs.of_float, outputs.of_network(network), strict=True)
        return distillation.distance.total(
            (_tensors(expected), _tensors(actual)) for expected, actual in pairs
        )

    better = better_of(model, result, noise, where)
    set_training_curve(better, loop.curve)
    return better


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: to_torch(array) for name, array in arrays.items()}


def check_gradients(student: Student, distillation: Distillation, feeds: Feeds, where: str) -> None:
    """Log which weights no gradient reaches; raise StageError where none is reached."""
    loss = distillation.loss(feeds)
    if loss.requires_grad:
        loss.backward()
    unreached = [
        weight.name
        for weight, learned in student.weights.items()
        if learned.positions.grad is None or not bool(learned.positions.grad.any())
    ]
    blocking = _blocking_operators(student.network)
    for _, tensor in student.named_tensors():
        tensor.grad = None
    if not unreached:
        return
    if len(unreached) == len(student.weights):
        raise StageError(
            f"{where}: no weight can be trained: no gradient passes through {blocking}; "
            "quantize by compensate, which needs none"
        )
    log.warning(
        "%s: %s cannot be trained through: %d weights before it stay as they are: %s",
        where,
        blocking,
        len(unreached),
        ", ".join(unreached),
    )


def _blocking_operators(network: TorchNetwork) -> str:
    """Return the nodes that torch does not compute, in words."""
    names = [f"{node.op_type} '{node.name}'" for node in network.foreign_nodes]
    return ", ".join(names) or "rounding where all values saturate"


def better_of(
    start: ir.Model, trained: ir.Model, noise: Callable[[ir.Model], float], where: str
) -> ir.Model:
    """Return the trained network, or the one before where that has less noise."""
    start_noise = noise(start)
    trained_noise = noise(trained)
    log.warning(
        "%s: outputs at %.2f dB before, %.2f dB afterwards",
        where,
        decibels(start_noise),
        decibels(trained_noise),
    )
    if trained_noise <= start_noise:
        return trained
    log.warning("%s: worse than the network that it was given, which stays as it was", where)
    return start
