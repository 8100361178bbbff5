"""Run a network on the host, on samples, and see inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Array

if TYPE_CHECKING:
    import onnxruntime

LONGEST = 300  # characters of the runtime's errors


def session(
    model: ir.Model, names: Sequence[str] = (), *, threads: int = 1, optimize: bool = True
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU that gives the values of these names (the network's outputs where none is
    named); the model is as before when it returns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # its warnings go to stderr, which belongs to qpipe's progress
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    with _outputs(model, names):
        proto = ir.to_proto(model).SerializeToString()
    try:
        return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, by the dozen
        reason = str(error).splitlines()[0][:LONGEST] if str(error) else type(error).__name__
        raise StageError(
            f"network '{model.graph.name}': onnxruntime does not load it: {reason}"
        ) from error


@contextmanager
def _outputs(model: ir.Model, names: Sequence[str]) -> Iterator[None]:
    outputs = list(model.graph.outputs)
    if names:
        values = ir.convenience.create_value_mapping(model.graph)
        model.graph.outputs[:] = [values[name] for name in names]
    try:
        yield
    finally:
        model.graph.outputs[:] = outputs


def inferences(
    running: onnxruntime.InferenceSession, samples: Samples, count: int | None = None
) -> Iterator[dict[str, Array]]:
    """The outputs by name for each of the first `count` samples, one at a time."""
    inputs = [value.name for value in running.get_inputs()]
    outputs = [value.name for value in running.get_outputs()]
    for index in range(len(samples) if count is None else min(count, len(samples))):
        feeds = samples.feeds(index, inputs)
        try:
            named = dict(zip(outputs, running.run(None, feeds), strict=True))
        except Exception as error:  # onnxruntime raises classes of its own, by the dozen
            shapes = ", ".join(
                f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items()
            )
            reason = str(error).splitlines()[0][:LONGEST]
            raise StageError(
                f"sample '{samples[index].id}': the network does not take {shapes}: {reason}"
            ) from error
        yield named
        del named  # or it would live beside its successor
