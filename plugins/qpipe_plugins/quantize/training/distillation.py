"""What the student learns from the teacher: outputs, and the tensors between layers.

Distillation without labels (Hinton et al. 2015, arXiv 1503.02531; of features: Romero et al. 2015,
arXiv 1412.6550). The distance of two outputs is that of `output_distance`, which is also what
held-out samples are scored by; of tensors between layers it is the power of their difference over
that of the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch.linalg import vector_norm
from torch.nn.functional import mse_loss

from qpipe.errors import StageError
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import TorchNetwork
from qpipe_plugins.quantize.training.output_distance import TINY, OutputDistance, Outputs
from qpipe_plugins.quantize.training.sample_batches import Feeds
from qpipe_plugins.quantize.training.student import Student


@dataclass(frozen=True)
class Counterpart:
    """A tensor of the teacher, and the one of the student that should be like it."""

    teacher: ir.Value
    student: ir.Value


class Distillation:
    """Student and teacher side by side; `features` weighs the tensors between layers.

    `classes` are the outputs that hold scores of classes; `samples` show how frequent these are.
    Raise StageError, which begins with `where`, where no output of the network holds floats.
    """

    def __init__(
        self,
        student: Student,
        teacher: TorchNetwork,
        features: float,
        where: str,
        *,
        classes: Sequence[str] = (),
        samples: Iterable[Feeds] = (),
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
        names = [output.teacher.name or "" for output in self.outputs]
        self.distance = OutputDistance(names, classes, where)
        self.distance.learn_frequencies(teacher.outputs(feeds) for feeds in samples)
        self._features = _rounded_tensors(student, teacher) if features else []

    def loss(self, feeds: Feeds) -> Tensor:
        """Return how far the student is from the teacher on a batch, as a logarithm."""
        counterparts = [*self.outputs, *self._features]
        expected, actual = self._tensors(feeds, counterparts)
        output_loss = self.distance.loss(*self._by_name(expected, actual))
        if not self._features:
            return output_loss
        feature_loss = (_mean_distance(expected, actual, self._features) + TINY).log()
        return output_loss + self._feature_weight * feature_loss

    def noise(self, batches: Iterable[Feeds]) -> float:
        """Return the noise over the signal of the outputs on batches, the mean over outputs."""
        return self.distance.total(
            self._by_name(*self._tensors(feeds, self.outputs)) for feeds in batches
        )

    def _by_name(
        self, expected: dict[ir.Value, Tensor], actual: dict[ir.Value, Tensor]
    ) -> tuple[Outputs, Outputs]:
        """Return the outputs among tensors of teacher and student, by name."""
        return (
            {output.teacher.name or "": expected[output.teacher] for output in self.outputs},
            {output.teacher.name or "": actual[output.student] for output in self.outputs},
        )

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
        difference = mse_loss(actual[each.student], reference, reduction="sum")
        total = total + difference / (vector_norm(reference).square() + TINY)
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
