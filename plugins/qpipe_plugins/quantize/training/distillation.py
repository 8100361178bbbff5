"""What the student learns from the teacher: outputs, and the tensors between layers.

Distillation without labels (Hinton et al. 2015, arXiv 1503.02531; of features: Romero et al. 2015,
arXiv 1412.6550). The distance of two tensors is the power of their difference over that of the
teacher's, which is what held-out samples are scored by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from qpipe.errors import StageError
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import TorchNetwork
from qpipe_plugins.quantize.training.sample_batches import Feeds
from qpipe_plugins.quantize.training.student import Student

TINY = 1e-12  # power of a tensor that is all zeros


@dataclass(frozen=True)
class Counterpart:
    """A tensor of the teacher, and the one of the student that should be like it."""

    teacher: ir.Value
    student: ir.Value


class Distillation:
    """Student and teacher side by side; `features` weighs the tensors between layers.

    Raise StageError, which begins with `where`, where no output of the network holds floats.
    """

    def __init__(
        self, student: Student, teacher: TorchNetwork, features: float, where: str
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._feature_weight = features
        self.outputs = [
            Counterpart(of_teacher, of_student)
            for of_teacher, of_student in zip(
                teacher.model.graph.outputs, student.model.graph.outputs, strict=True
            )
            if of_teacher.dtype is not None and of_teacher.dtype.is_floating_point()
        ]
        if not self.outputs:
            raise StageError(f"{where}: no output of the network holds floats to learn from")
        self._features = _rounded_tensors(student, teacher) if features else []

    def loss(self, feeds: Feeds) -> Tensor:
        """Return how far the student is from the teacher on a batch."""
        counterparts = [*self.outputs, *self._features]
        expected, actual = self._tensors(feeds, counterparts)
        output_loss = _mean_distance(expected, actual, self.outputs)
        if not self._features:
            return output_loss
        feature_loss = _mean_distance(expected, actual, self._features)
        return output_loss + self._feature_weight * feature_loss

    def noise(self, batches: Iterable[Feeds]) -> float:
        """Return the noise over the signal of the outputs on batches, the mean over outputs."""
        noise = dict.fromkeys(self.outputs, 0.0)
        signal = dict.fromkeys(self.outputs, 0.0)
        for feeds in batches:
            with torch.no_grad():
                expected, actual = self._tensors(feeds, self.outputs)
            for output in self.outputs:
                reference = expected[output.teacher].double()
                difference = actual[output.student].double() - reference
                noise[output] += float(difference.square().sum())
                signal[output] += float(reference.square().sum())
        ratios = [noise[output] / power for output, power in signal.items() if power > 0]
        return sum(ratios) / len(ratios) if ratios else 0.0

    def _tensors(
        self, feeds: Feeds, counterparts: Sequence[Counterpart]
    ) -> tuple[dict[ir.Value, Tensor], dict[ir.Value, Tensor]]:
        """Return the tensors of teacher and student; gradients pass through the student's."""
        teacher = self._teacher
        network = self._student.network
        with torch.no_grad():
            expected = teacher.compute(
                teacher.input_values(feeds), [each.teacher for each in counterparts]
            )
        actual = network.compute(
            network.input_values(feeds), [each.student for each in counterparts]
        )
        return expected, actual


def _mean_distance(
    expected: dict[ir.Value, Tensor],
    actual: dict[ir.Value, Tensor],
    counterparts: Sequence[Counterpart],
) -> Tensor:
    total = torch.zeros(())
    for each in counterparts:
        reference = expected[each.teacher]
        difference = (actual[each.student] - reference).square().sum()
        total = total + difference / (reference.square().sum() + TINY)
    return total / len(counterparts)


def _rounded_tensors(student: Student, teacher: TorchNetwork) -> list[Counterpart]:
    """Return what each pair rounds, where the teacher has a tensor of the same name."""
    by_name = {value.name: value for node in teacher.model.graph for value in node.outputs}
    counterparts = []
    for learned in student.ranges:
        for pair in learned.pairs:
            reference = by_name.get(pair.source.name)
            if reference is not None and pair.dequantizers:
                counterparts.append(Counterpart(reference, pair.dequantizers[0].outputs[0]))
    return counterparts
