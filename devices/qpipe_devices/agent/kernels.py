"""Where the nodes of a network run and in which precision, counted alike for all runtimes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .messages import PlacementAnswer

OTHER = "other"  # nodes that move, convert or index: they compute no values of the network
COMPILED = "compiled"  # a part that the provider compiled: its precision is not reported
PRECISIONS = {
    "float": "float32",
    "f32": "float32",
    "float32": "float32",
    "double": "float64",
    "f64": "float64",
    "float16": "float16",
    "f16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "int8": "int8",
    "uint8": "int8",
    "i8": "int8",
    "u8": "int8",
    "int4": "int4",
    "uint4": "int4",
    "i4": "int4",
    "u4": "int4",
    "int16": "int16",
    "uint16": "int16",
    "i16": "int16",
    "u16": "int16",
}
# operators of ONNX, ONNX Runtime and OpenVINO that compute no values
MOVING_OPERATORS = {
    "Cast",
    "CastLike",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "MemcpyFromHost",
    "MemcpyToHost",
    "Pad",
    "QLinearConcat",
    "QuantizeLinear",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Broadcast",
    "Concatenation",
    "Const",
    "Convert",
    "Crop",
    "Input",
    "Output",
    "Reorder",
    "ScatterUpdate",
    "StridedSlice",
}
MOST_FLOAT_NODES = 200  # names of float nodes in one answer
# what runtimes append to the names of nodes
NAME_SUFFIXES = re.compile(r"(_kernel_time|_nchwc|_nhwc|_token_\d+|/WithoutBiases)+$")


class Kernel(NamedTuple):
    """One node of the graph that runs.

    `precision` is that of the values it computes on, in the runtime's words.
    """

    provider: str
    operator: str
    precision: str
    name: str


def count(kernels: Iterable[Kernel]) -> PlacementAnswer:
    """Return the answer to `placement`.

    It has the number of `nodes` by provider and precision, and the names of `float_nodes`, those
    that compute in float.
    """
    nodes: dict[str, dict[str, int]] = {}
    float_nodes: list[str] = []
    for kernel in kernels:
        precision = _precision(kernel)
        by_precision = nodes.setdefault(kernel.provider, {})
        by_precision[precision] = by_precision.get(precision, 0) + 1
        if "float" in precision:
            name = NAME_SUFFIXES.sub("", kernel.name)
            float_nodes.append(name or kernel.operator)
    return {"nodes": nodes, "float_nodes": float_nodes[:MOST_FLOAT_NODES]}


def _precision(kernel: Kernel) -> str:
    if kernel.operator in MOVING_OPERATORS:
        return OTHER
    if kernel.operator.startswith("DynamicQuantize"):  # the input is float, the sums are integers
        return "int8"
    if not kernel.operator.isalnum():
        return COMPILED
    return PRECISIONS.get(kernel.precision, OTHER)


def kernels_in_profile(events: Iterable[Mapping[str, Any]]) -> list[Kernel]:
    """Return the kernels in a profile that ONNX Runtime wrote of one inference."""
    return [
        _kernel_of_event(event)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def _kernel_of_event(event: Mapping[str, Any]) -> Kernel:
    arguments = event.get("args", {})
    precision = ""
    for types_of_input in arguments.get("input_type_shape", []):
        if types_of_input:
            precision = next(iter(types_of_input))
            break
    provider = provider_name(arguments.get("provider", ""))
    return Kernel(provider, arguments.get("op_name", ""), precision, event["name"])


def provider_name(provider: str) -> str:
    """Return a provider of ONNX Runtime as recipes name it.

    XnnpackExecutionProvider is xnnpack.
    """
    return provider.replace("ExecutionProvider", "").lower()
