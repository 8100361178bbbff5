"""What an ONNX file states: inputs, outputs, operators, weights. Nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
from google.protobuf.message import DecodeError

from qpipe.errors import RecipeError
from qpipe.quant.external_data import LARGEST, external_files
from qpipe.quant.network_inputs import BATCH_NAME
from qpipe.samples.preprocess import FLOATS

# operators that pass values on unchanged
PASSING_OPERATORS = {
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Cast",
    "Transpose",
    "Concat",
}
SCALING_OPERATORS = {"Sub", "Add", "Mul", "Div", "BatchNormalization"}
PICTURE_CHANNELS = (1, 3, 4)
MOST_PASSING_NODES = 20  # in a row
UNNAMED = "?"  # a dimension that is open and has no name


class Tensor(NamedTuple):
    """An input or output; a dimension is a number, the name of an open one, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def may_need_shape(self) -> bool:
        """Whether import may need a shape for it.

        That is where a dimension besides the first is open, or the first is no batch by its name,
        or may be a fixed one.
        """
        if any(isinstance(size, str) for size in self.shape[1:]):
            return True
        first = self.shape[0] if self.shape else 1
        if isinstance(first, int):
            return first != 1
        return first != UNNAMED and not BATCH_NAME.fullmatch(first)

    @property
    def is_whole_number(self) -> bool:
        """Whether it is one integer, or true or false, without axes."""
        return self.shape == () and self.dtype.startswith(("int", "uint", "bool"))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


class Picture(NamedTuple):
    """How an input takes pictures; height and width are None where they are open."""

    name: str
    layout: Literal["NCHW", "NHWC"]
    channels: int
    height: int | None
    width: int | None
    dtype: str


@dataclass(frozen=True)
class Network:
    """The facts about an ONNX file."""

    path: Path
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    opset: int
    ir_version: int
    producer: str
    operators: Mapping[str, int]  # most frequent first
    parameters: int
    size: int  # bytes, including weights in other files
    ends: Mapping[str, str]  # output -> the operator that computes its values
    scales_itself: bool  # whether it begins by shifting or scaling its input

    @property
    def is_quantized(self) -> bool:
        """Whether it has been quantized before."""
        prefixes = ("Quantize", "QLinear", "DynamicQuantize")
        return any(name.startswith(prefixes) for name in self.operators)

    @property
    def picture(self) -> Picture | None:
        """Its input, where it has only one, and that looks like pictures."""
        return picture_input(self.inputs[0]) if len(self.inputs) == 1 else None


def read_network(path: Path) -> Network:
    """Read the facts about an ONNX file; raise RecipeError where it is none."""
    proto = _load(path)
    graph = proto.graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    inputs = [_tensor(value) for value in graph.input if value.name not in weights]
    if not inputs:
        raise RecipeError(f"{path}: it takes no input; export a network that does")
    operators = Counter(node.op_type for node in graph.node if node.op_type != "Constant")
    producers = {name: node for node in graph.node for name in node.output}
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    first_operators = {_first_operator(value.name, graph.node) for value in inputs}
    return Network(
        path=path,
        inputs=inputs,
        outputs=[_tensor(value) for value in graph.output],
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=proto.ir_version,
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        operators=dict(operators.most_common()),
        parameters=sum(weights.values()) + _constant_parameters(graph),
        size=sum(file.stat().st_size for file in (path, *external_files(path))),
        ends={value.name: _last_operator(value.name, producers) for value in graph.output},
        scales_itself=bool(first_operators & SCALING_OPERATORS),
    )


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; give an ONNX file")
    size = path.stat().st_size
    if size > LARGEST:
        raise RecipeError(f"{path}: {size} bytes; an ONNX file has at most {LARGEST}")
    fix = "export or copy it again"
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, OSError):
        raise RecipeError(f"{path}: not an ONNX file, or cut short; {fix}") from None
    if not proto.graph.node or not proto.graph.output:
        raise RecipeError(f"{path}: not an ONNX file, or one without nodes; {fix}")
    return proto


def _constant_parameters(graph: onnx.GraphProto) -> int:
    """Return the number of values in Constant nodes."""
    count = 0
    for node in graph.node:
        if node.op_type == "Constant":
            tensors = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
            count += sum(math.prod(tensor.dims) for tensor in tensors)
    return count


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor_type = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
    except (KeyError, TypeError, ValueError):
        dtype = value.type.WhichOneof("value") or "untyped"
    shape = [
        dimension.dim_value or dimension.dim_param or UNNAMED for dimension in tensor_type.shape.dim
    ]
    return Tensor(value.name, dtype, tuple(shape))


def _last_operator(name: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the operator that computes a tensor's values, before those that pass them on."""
    for _ in range(MOST_PASSING_NODES):
        node = producers.get(name)
        if node is None or node.op_type not in PASSING_OPERATORS or not node.input:
            break
        name = node.input[0]
    node = producers.get(name)
    return node.op_type if node else "Input"


def _first_operator(name: str, nodes: Sequence[onnx.NodeProto]) -> str:
    """Return the operator that first changes an input's values; "" where several read it."""
    for _ in range(MOST_PASSING_NODES):
        readers = [node for node in nodes if name in node.input]
        if len(readers) != 1:
            return ""
        reader = readers[0]
        if reader.op_type not in PASSING_OPERATORS or not reader.output:
            return reader.op_type
        name = reader.output[0]
    return ""


def picture_input(tensor: Tensor) -> Picture | None:
    """Return how a tensor takes pictures, by its shape; None where it does not look like it."""
    if len(tensor.shape) != 4 or tensor.dtype not in (*FLOATS, "uint8"):
        return None
    first, second, third = (size if isinstance(size, int) else None for size in tensor.shape[1:])
    may_be_last = third in PICTURE_CHANNELS
    if first in PICTURE_CHANNELS or (first is None and not may_be_last):
        return Picture(tensor.name, "NCHW", first or 3, second, third, tensor.dtype)
    if may_be_last:
        return Picture(tensor.name, "NHWC", third or 3, first, second, tensor.dtype)
    return None
