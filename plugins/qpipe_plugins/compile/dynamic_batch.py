"""Builds that take any number of samples at once: the batch that import pinned to 1 is opened.

Not every network can: one may mix samples or hold a shape of one sample. So each build is proved
by inference of two samples of noise, which must give together what each gives alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.graph import add_initializer, constant, remove_unused
from qpipe.quant.inference import InferenceError, infer, open_session
from qpipe.quant.noise import OPEN_SIZE
from qpipe.types import Array

BATCH = "batch"  # the name of the open dimension
NOISE_SCALES = (1.0, 0.3)  # of the two samples: they differ, so that mixing them shows
# Parts of a sample's output that may differ. A sum may be computed in another order, and its
# rounding may move a code that is quantized after it. But samples differ by much more, and what
# depends on the other sample is of that size.
MAX_MOVED = 1e-2
MAX_ROUNDED = 1e-5

FIX = "leave dynamic_batch out"

Feeds = Mapping[str, Array]


# ---- Reshapes that hold the batch


def open_reshapes(model: ir.Model) -> None:
    """Let each Reshape with a batch of 1 in its shape copy the batch of its input instead.

    With one sample nothing changes.
    """
    computed = set(model.graph.inputs)  # what depends on an input
    for node in model.graph:
        if computed.isdisjoint(node.inputs):
            continue
        computed.update(node.outputs)
        if node.op_type == "Reshape" and node.inputs[0] in computed:
            shape = _shape_with_batch(node)
            if shape is not None:
                _copy_batch(model, node, shape)


def _shape_with_batch(node: ir.Node) -> Array | None:
    """Return the constant shape of a Reshape that begins with the batch; None for all others."""
    shape = constant(node.inputs[1])
    if shape is None or shape.tolist()[:1] != [1]:
        return None
    input_shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if input_shape is not None and (len(input_shape) == 0 or input_shape[0] != 1):
        return None
    # with allowzero a 0 means an axis of no elements, not a copy of the input's
    is_empty = node.attributes.get_int("allowzero", 0) and 0 in shape
    return None if is_empty else shape


def _copy_batch(model: ir.Model, node: ir.Node, shape: Array) -> None:
    """Put 0 at the start of the shape: Reshape then copies the size from its input."""
    old_shape = node.inputs[1]
    name = f"{node.outputs[0].name}_shape"
    new_shape = np.array([0, *shape[1:]], np.int64)
    node.replace_input_with(1, add_initializer(model.graph, name, new_shape))
    node.attributes.pop("allowzero", None)
    remove_unused(model.graph, old_shape)


# ---- opening the batch, and the proof


def open_batch(proto: onnx.ModelProto, where: str) -> None:
    """Open axis 0 of each input, and of each output that has a row per sample; in place.

    Raise StageError, naming the responsible node, unless two samples at once give what each gives
    alone on this machine.
    """
    for value in proto.graph.input:
        shape = _sizes(value)
        if shape[:1] != [1]:
            raise StageError(
                f"{where}: dynamic_batch: input '{value.name}' has shape {shape}, "
                f"without a batch axis of 1; {FIX}"
            )
    samples = _noise_samples(proto)
    outputs = list(proto.graph.output)
    pinned = [value for value in outputs if _sizes(value)[:1] == [1]]
    for value in (*proto.graph.input, *pinned):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del proto.graph.value_info[:]
    comparisons = _compare(ir.from_proto(proto), [], samples, where)
    for value, comparison in zip(outputs, comparisons, strict=True):
        if not comparison.is_independent():
            reason = _responsible_node(proto, samples, where)
            if reason is None:
                reason = f"output '{value.name}' of two samples is not that of each alone"
            raise StageError(f"{where}: dynamic_batch: {reason}; {FIX}")
        if value in pinned and not comparison.has_batch_axis():
            value.type.tensor_type.shape.dim[0].dim_value = 1


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the sizes of a tensor's axes, 0 for those that are open."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _noise_samples(proto: onnx.ModelProto) -> list[Feeds]:
    """Return two samples of noise, by input name."""
    random = np.random.default_rng(0)
    samples: list[Feeds] = []
    for scale in NOISE_SCALES:
        samples.append({value.name: _noise(value, scale, random) for value in proto.graph.input})
    return samples


def _noise(value: onnx.ValueInfoProto, scale: float, random: np.random.Generator) -> Array:
    """Return noise in the type of an input.

    Bytes are those of a picture, mostly; wider integers index a table, whose first two entries
    exist.
    """
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    noise: Array = scale * random.normal(size=[size or OPEN_SIZE for size in _sizes(value)])
    if dtype.kind in "iu" and dtype.itemsize == 1:
        noise = np.clip(40 * np.abs(noise), 0, 127)
    elif dtype.kind in "iub":
        noise = noise > 0
    return noise.astype(dtype)


@dataclass(frozen=True)
class Comparison:
    """One tensor for two samples alone, and for both at once."""

    first: Array
    second: Array
    together: Array

    def has_batch_axis(self) -> bool:
        """Return whether axis 0 has a row for each sample."""
        has_one_row = self.first.shape[:1] == (1,)
        two_rows = (2, *self.first.shape[1:])
        return bool(has_one_row and self.together.shape == two_rows)

    def is_independent(self) -> bool:
        """Return whether each sample gives what it gives alone, except for rounding.

        What has no batch axis must be the same for all samples.
        """
        alone = (self.first, self.second)
        if not self.has_batch_axis():
            return all(np.array_equal(self.together, array, equal_nan=True) for array in alone)
        if self.first.dtype.kind != "f":
            return np.array_equal(self.together, np.concatenate(alone))
        difference = _rms(self.first - self.second)
        for row, array in zip(self.together, alone, strict=True):
            size = _rms(array)
            limit = max(MAX_MOVED * min(size, difference), MAX_ROUNDED * size)
            is_equal = np.array_equal(array[0], row, equal_nan=True)
            if not is_equal and not _rms(row - array) <= limit:
                return False
        return True


def _rms(array: Array) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _compare(
    model: ir.Model, names: Sequence[str], samples: Sequence[Feeds], where: str
) -> list[Comparison]:
    """Return the named tensors, or the outputs without names, for two samples alone and together.

    Raise StageError where the network does not run with two samples.
    """
    session = open_session(model, names, optimize=False)
    first_feeds, second_feeds = samples
    first = infer(session, first_feeds)
    second = infer(session, second_feeds)
    both = {name: np.concatenate([first_feeds[name], second_feeds[name]]) for name in first_feeds}
    try:
        together = infer(session, both)
    except InferenceError as error:
        node = error.node or "a node"
        raise StageError(
            f"{where}: dynamic_batch: {node} binds the network to one sample; {FIX}"
        ) from error
    return [Comparison(first[name], second[name], together[name]) for name in together]


def _responsible_node(proto: onnx.ModelProto, samples: Sequence[Feeds], where: str) -> str | None:
    """Return the first node that gives a sample something else beside another one, in words."""
    model = ir.from_proto(proto)
    nodes = [node for node in model.graph if node.outputs and node.outputs[0].name]
    names = [str(node.outputs[0].name) for node in nodes]
    comparisons = _compare(model, names, samples, where)
    for node, comparison in zip(nodes, comparisons, strict=True):
        if comparison.has_batch_axis() and not comparison.is_independent():
            name = node.name or node.outputs[0].name
            return f"{node.op_type} '{name}' makes the output of a sample depend on other samples"
    return None
