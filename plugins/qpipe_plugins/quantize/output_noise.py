"""How far the outputs of quantized networks are from those of float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from qpipe.quant.graph import has_known_shape
from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.quant.sensitivity import relative_noise
from qpipe.samples.store import Samples
from qpipe.types import Array


class OutputNoise:
    """How far quantized networks are from float on some samples.

    Networks are simulated operator by operator, so that the processor makes no difference.
    """

    def __init__(
        self, samples: Samples, indices: Sequence[int], float_model: ir.Model, *, threads: int
    ) -> None:
        self._samples = samples
        self._indices = indices
        self._threads = threads
        self._outputs = [
            value.name or "" for value in float_model.graph.outputs if _is_comparable(value)
        ]
        self.of_float = list(self.of_network(float_model))

    def of(self, model: ir.Model) -> float:
        """Return the noise over the signal of the outputs; see `relative_noise`."""
        return relative_noise(self.of_float, self.of_network(model))

    def of_network(self, model: ir.Model) -> Iterator[dict[str, Array]]:
        """Yield the outputs of a network for each sample; those of float are `of_float`."""
        if not self._outputs:
            yield from [{}] * len(self._indices)
            return
        inputs = input_shapes(model)
        session = open_session(model, self._outputs, threads=self._threads, optimize=False)
        for index in self._indices:
            yield infer(session, self._samples.feeds(index, inputs))


def _is_comparable(value: ir.Value) -> bool:
    """Return whether an output is a tensor of floats whose shape no values decide."""
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    is_tensor = isinstance(value.type, ir.TensorType)
    return is_float and is_tensor and has_known_shape(value)
