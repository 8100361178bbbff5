"""Training of a whole network by distillation: what `qat` does once its options are known."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from qpipe.errors import StageError
from qpipe.quant.in_torch.torch_network import TorchNetwork
from qpipe.quant.sensitivity import decibels
from qpipe.samples.store import Samples
from qpipe.types import Progress, Target
from qpipe_plugins.quantize.output_noise import OutputNoise
from qpipe_plugins.quantize.training.distillation import Distillation
from qpipe_plugins.quantize.training.sample_batches import Augment, Feeds, SampleBatches
from qpipe_plugins.quantize.training.student import Student
from qpipe_plugins.quantize.training.torch_setup import torch_setup
from qpipe_plugins.quantize.training.training_loop import Schedule, TrainingLoop
from qpipe_plugins.quantize.training_extra import held_out_indices, used_samples

CURVE = "qpipe.training"  # in the metadata of a network: its scores in training
STATE = "training.pt"
WIDTH_AXES = {"NCHW": 3, "NHWC": 2}  # with the batch axis in front

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained."""

    schedule: Schedule
    features: float  # what tensors between layers weigh beside the outputs
    horizontal_flip: bool
    batch: int
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
    with torch_setup(options.threads, options.schedule.seed) as device:
        student = Student(model, float_model, target, where, device=device)
        teacher = TorchNetwork(float_model, device=device)
        distillation = Distillation(student, teacher, options.features, where)
        augment = _flip(samples, float_model, where) if options.horizontal_flip else None
        batches = SampleBatches(samples, teacher, options.batch, augment)
        count = used_samples(samples, options.samples)
        held_out = held_out_indices(count)
        trained = sorted(set(range(count)) - set(held_out))
        check_gradients(student, distillation, batches.of(trained[:1]), where)
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
    result.metadata_props[CURVE] = json.dumps(loop.curve)
    noise = OutputNoise(samples, held_out, float_model, threads=options.threads)
    return better_of(model, result, noise, where)


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


def better_of(start: ir.Model, trained: ir.Model, noise: OutputNoise, where: str) -> ir.Model:
    """Return the trained network, or the one before where that is closer to float."""
    start_noise = noise.of(start)
    trained_noise = noise.of(trained)
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


def _flip(samples: Samples, model: ir.Model, where: str) -> Augment:
    """Return an augmentation that exchanges left and right in half of the pictures."""
    axes = _width_axes(samples, [value.name or "" for value in model.graph.inputs])
    if not axes:
        raise StageError(
            f"{where}: horizontal_flip is set, but no input of the samples is an image; "
            "leave it out"
        )

    def flip(feeds: Feeds, generator: torch.Generator) -> Feeds:
        count = len(next(iter(feeds.values())))
        is_flipped = torch.rand(count, generator=generator) < 0.5
        return {
            name: _flipped(tensor, is_flipped, axes[name]) if name in axes else tensor
            for name, tensor in feeds.items()
        }

    return flip


def _flipped(tensor: torch.Tensor, is_flipped: torch.Tensor, axis: int) -> torch.Tensor:
    chosen = is_flipped.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
    return torch.where(chosen, tensor.flip(axis), tensor)


def _width_axes(samples: Samples, inputs: Sequence[str]) -> dict[str, int]:
    """Return the axis of the width of each input that is an image, batch axis included.

    Where samples and network have one input each, their names need not agree.
    """
    axes = {
        name: WIDTH_AXES[how.layout]
        for name, how in samples.preprocessing.items()
        if how.layout in WIDTH_AXES
    }
    if axes and len(samples.preprocessing) == len(inputs) == 1:
        return dict.fromkeys(inputs, next(iter(axes.values())))
    return axes
