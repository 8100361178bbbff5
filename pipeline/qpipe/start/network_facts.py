"""What an ONNX file says of itself: inputs, outputs, operators, weights; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
from google.protobuf.message import DecodeError

from qpipe.errors import RecipeError
from qpipe.quant.external_data import LARGEST, external_files

PASSING = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Transpose", "Concat"}
SCALING = {"Sub", "Add", "Mul", "Div", "BatchNormalization"}
CHANNELS = (1, 3, 4)
DEPTH = 20  # nodes that pass values on, one after another, to look past


class Tensor(NamedTuple):
    """An input or output: a dimension is a number, the name of an open one, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def is_open(self) -> bool:
        """Whether the importer cannot make it one sample of one shape by itself: a dimension besides the batch is open,
        or the batch is not 1."""
        batch = self.shape[0] if self.shape else 1
        return any(isinstance(size, str) for size in self.shape[1:]) or (
            isinstance(batch, int) and batch != 1
        )

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


class Picture(NamedTuple):
    """How an input takes pictures; the sizes are None where they are open."""

    name: str
    layout: Literal["NCHW", "NHWC"]
    channels: int
    height: int | None
    width: int | None
    dtype: str


@dataclass(frozen=True)
class Network:
    """What was seen of a file."""

    path: Path
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    opset: int
    ir_version: int
    producer: str
    operators: Mapping[str, int]  # most frequent first
    parameters: int
    size: int  # bytes, weights beside the file included
    ends: Mapping[str, str]  # output -> the operator that gives its values
    scales_itself: bool  # the first thing it does to its input is to shift or scale it

    @property
    def is_quantized(self) -> bool:
        """Whether somebody quantized it before."""
        return any(
            name.startswith(("Quantize", "QLinear", "DynamicQuantize")) for name in self.operators
        )

    @property
    def picture(self) -> Picture | None:
        """Its input, where it has one alone that looks like pictures."""
        return picture(self.inputs[0]) if len(self.inputs) == 1 else None


def read(path: Path) -> Network:
    """Look at a file; RecipeError where it is no network."""
    proto = _proto(path)
    graph = proto.graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    constants = [
        a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")
    ]
    inputs = [_tensor(value) for value in graph.input if value.name not in weights]
    if not inputs:
        raise RecipeError(f"{path}: it takes no input; export a network that does")
    counts = Counter(node.op_type for node in graph.node if node.op_type != "Constant")
    makers = {name: node for node in graph.node for name in node.output}
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    return Network(
        path=path,
        inputs=inputs,
        outputs=[_tensor(value) for value in graph.output],
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=proto.ir_version,
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        operators=dict(counts.most_common()),
        parameters=sum(weights.values()) + sum(math.prod(tensor.dims) for tensor in constants),
        size=sum(file.stat().st_size for file in (path, *external_files(path))),
        ends={value.name: _end(value.name, makers) for value in graph.output},
        scales_itself=any(_first(value.name, graph.node) in SCALING for value in inputs),
    )


def _proto(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; give an ONNX file")
    if path.stat().st_size > LARGEST:
        raise RecipeError(
            f"{path}: {path.stat().st_size} bytes; an ONNX file has at most {LARGEST}"
        )
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, OSError):
        raise RecipeError(
            f"{path}: not an ONNX file, or cut short; export or copy it again"
        ) from None
    if not proto.graph.node or not proto.graph.output:
        raise RecipeError(
            f"{path}: not an ONNX file, or one without nodes; export or copy it again"
        )
    return proto


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except (KeyError, TypeError, ValueError):
        dtype = value.type.WhichOneof("value") or "untyped"
    return Tensor(
        value.name, dtype, tuple(d.dim_value or d.dim_param or "?" for d in kind.shape.dim)
    )


def _end(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The operator that a tensor's values come from, past those that only move them."""
    for _ in range(DEPTH):
        node = makers.get(name)
        if node is None or node.op_type not in PASSING or not node.input:
            break
        name = node.input[0]
    node = makers.get(name)
    return node.op_type if node else "Input"


def _first(name: str, nodes: Sequence[onnx.NodeProto]) -> str:
    """The operator that first changes an input's values; empty where several read it."""
    for _ in range(DEPTH):
        readers = list(_readers(name, nodes))
        if len(readers) != 1:
            return ""
        if readers[0].op_type not in PASSING or not readers[0].output:
            return readers[0].op_type
        name = readers[0].output[0]
    return ""


def _readers(name: str, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    return (node for node in nodes if name in node.input)


def picture(tensor: Tensor) -> Picture | None:
    """How a tensor takes pictures, by its shape; None where it does not look like it."""
    if len(tensor.shape) != 4 or tensor.dtype not in ("float32", "uint8"):
        return None
    _, *rest = tensor.shape
    sizes = [size if isinstance(size, int) else None for size in rest]
    if sizes[0] in CHANNELS or (sizes[0] is None and sizes[2] not in CHANNELS):
        return Picture(tensor.name, "NCHW", sizes[0] or 3, sizes[1], sizes[2], tensor.dtype)
    if sizes[2] in CHANNELS:
        return Picture(tensor.name, "NHWC", sizes[2] or 3, sizes[0], sizes[1], tensor.dtype)
    return None
