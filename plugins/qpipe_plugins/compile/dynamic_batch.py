"""A network that takes any number of samples at once: what was pinned to one at import is opened again, and proved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.inference import session
from qpipe.types import Array

if TYPE_CHECKING:
    import onnxruntime

BATCH = "batch"  # what the open axis is called
SCALES = (1.0, 0.3)  # of the noise in two samples: what mixes them shows
# parts of a sample's output: a sum may be taken in another order, and its rounding move a code that is quantized after
# it; but what tells samples apart is much larger, and what depends on the other sample is of that size
MOVED = 1e-2
ROUNDED = 1e-5

OUT = "leave free_batch out"

Feeds = Mapping[str, Array]


def open_reshapes(model: ir.Model) -> None:
    """Let each Reshape that holds a batch of 1 take that of its input; with one sample nothing changes."""
    fed = set(model.graph.inputs)
    for node in model.graph:
        if fed.isdisjoint(node.inputs):
            continue
        fed.update(node.outputs)
        if (
            node.op_type == "Reshape"
            and node.inputs[0] in fed
            and (shape := _holds_batch(node)) is not None
        ):
            old = node.inputs[1]
            opened = qdq.initializer(
                model, f"{node.outputs[0].name}_shape", np.array([0, *shape[1:]], np.int64)
            )
            node.replace_input_with(1, opened)
            node.attributes.pop("allowzero", None)
            qdq.discard(model, old)


def _holds_batch(node: ir.Node) -> Array | None:
    """The shape that a Reshape makes, where it is constant and begins with what may be the batch of its input."""
    data = node.inputs[0]
    shape = qdq.constant(node.inputs[1])
    known = data.shape if data is not None else None
    if (
        shape is None
        or shape.tolist()[:1] != [1]
        or (known is not None and (len(known) == 0 or known[0] != 1))
    ):
        return None
    is_empty = (
        node.attributes.get_int("allowzero", 0) and 0 in shape
    )  # it has no elements: a 0 means itself there
    return None if is_empty else shape


def free(proto: onnx.ModelProto, where: str) -> None:
    """Open axis 0 of each input, and of each output that has as many rows; in place.

    StageError unless two samples at once give what each gives alone, here and now, naming the node that is to blame.
    """
    for value in proto.graph.input:
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if shape[:1] != [1]:
            raise StageError(
                f"{where}: free_batch: input '{value.name}' is {shape}, without a batch axis of 1; {OUT}"
            )
    alone, together = _noise(proto)
    outputs = list(proto.graph.output)
    pinned = [
        value
        for value in outputs
        if [d.dim_value for d in value.type.tensor_type.shape.dim][:1] == [1]
    ]
    for value in (*proto.graph.input, *pinned):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del proto.graph.value_info[:]
    made = _Made(ir.from_proto(proto), [], alone, together, where)
    for number, value in enumerate(outputs):
        if not made.is_apart(number):
            raise StageError(
                f"{where}: free_batch: {_blamed(proto, alone, together, where, value.name)}; {OUT}"
            )
        if value in pinned and not made.has_rows(number):
            value.type.tensor_type.shape.dim[0].dim_value = 1


def _noise(proto: onnx.ModelProto) -> tuple[Sequence[Feeds], Feeds]:
    """Two samples, and both in one."""
    random = np.random.default_rng(0)
    samples = [
        {value.name: _random(value, scale, random) for value in proto.graph.input}
        for scale in SCALES
    ]
    one, other = samples
    return samples, {name: np.concatenate([one[name], other[name]]) for name in one}


def _random(value: onnx.ValueInfoProto, scale: float, random: np.random.Generator) -> Array:
    """Bytes are of a picture, mostly; wider integers index a table, whose first two entries there are."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    noise: Array = scale * random.normal(
        size=[dimension.dim_value for dimension in tensor.shape.dim]
    )
    if dtype.kind in "iu":
        noise = np.clip(40 * np.abs(noise), 0, 127) if dtype.itemsize == 1 else noise > 0
    return (noise > 0 if dtype.kind == "b" else noise).astype(dtype)


class _Made:
    """What each of two samples gives alone, and what they give together, of the outputs or of the values named."""

    def __init__(
        self,
        model: ir.Model,
        names: Sequence[str],
        alone: Sequence[Feeds],
        together: Feeds,
        where: str,
    ) -> None:
        running = session(model, names, optimize=False)
        self.ones, self.others = (running.run(None, feeds) for feeds in alone)
        try:
            self.both = running.run(None, together, _silent())
        except Exception as error:  # onnxruntime raises classes of its own, by the dozen
            named = re.search(r"running (\w+) node\. Name:'([^']+)'", str(error))
            blamed = f"{named[1]} '{named[2]}'" if named else "something in it"
            raise StageError(
                f"{where}: free_batch: {blamed} binds the network to one sample; {OUT}"
            ) from error

    def has_rows(self, number: int) -> bool:
        """Whether a value's axis 0 is the batch."""
        one = self.ones[number]
        both = self.both[number]
        return bool(one.shape[:1] == (1,) and both.shape == (2, *one.shape[1:]))

    def is_apart(self, number: int) -> bool:
        """Whether each sample gives, but for rounding, what it gives alone; of what no sample changes, whether it is
        the same."""
        one = self.ones[number]
        other = self.others[number]
        both = self.both[number]
        if not self.has_rows(number):
            return np.array_equal(both, one, equal_nan=True) and np.array_equal(
                both, other, equal_nan=True
            )
        if one.dtype.kind != "f":
            return np.array_equal(both, np.concatenate([one, other]))
        telling = _size(one - other)
        return all(
            np.array_equal(own[0], row, equal_nan=True)
            or _size(row - own) <= max(MOVED * min(_size(own), telling), ROUNDED * _size(own))
            for row, own in zip(both, (one, other), strict=True)
        )


def _silent() -> onnxruntime.RunOptions:
    """An error is told by whoever catches it, and not on stderr as well."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


def _size(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _blamed(
    proto: onnx.ModelProto, alone: Sequence[Feeds], together: Feeds, where: str, output: str
) -> str:
    """The first node that gives a sample something else beside another sample, in words; the output where none does."""
    model = ir.from_proto(proto)
    nodes = [node for node in model.graph if node.outputs and node.outputs[0].name]
    made = _Made(model, [str(node.outputs[0].name) for node in nodes], alone, together, where)
    for number, node in enumerate(nodes):
        if made.has_rows(number) and not made.is_apart(number):
            return f"{node.op_type} '{node.name or node.outputs[0].name}' makes what a sample gives depend on others"
    return f"output '{output}' of two samples is not that of each alone"
