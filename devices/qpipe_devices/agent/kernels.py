"""Where a network's nodes ran and in which precision, counted alike for all runtimes."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple  # noqa: UP035  (Python 3.8 on the board)

OTHER = "other"  # nodes that move, convert or index: they compute no values of the network
COMPILED = (
    "compiled"  # a part of the network as the provider compiled it: nobody says in which precision
)
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
# operators of ONNX, of ONNX Runtime and of OpenVINO alike
MOVING = {
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
LONGEST = 200  # names of float nodes that travel
TAILS = re.compile(
    r"(_kernel_time|_nchwc|_nhwc|_token_\d+|/WithoutBiases)+$"
)  # what runtimes append to names


class Kernel(NamedTuple):
    """One node of the graph that runs; its precision is that of the values it computes on, as the runtime calls it."""

    provider: str
    operator: str
    precision: str
    name: str


def count(kernels: Iterable[Kernel]) -> Dict[str, Any]:  # noqa: UP006
    """The answer to `placement`: `nodes` by provider and precision, and the names of those that compute in float."""
    nodes: Dict[str, Dict[str, int]] = {}  # noqa: UP006
    floats: List[str] = []  # noqa: UP006
    for kernel in kernels:
        precision = _precision(kernel)
        by_precision = nodes.setdefault(kernel.provider, {})
        by_precision[precision] = by_precision.get(precision, 0) + 1
        if "float" in precision:
            floats.append(TAILS.sub("", kernel.name) or kernel.operator)
    return {"nodes": nodes, "float_nodes": floats[:LONGEST]}


def _precision(kernel: Kernel) -> str:
    if kernel.operator in MOVING:
        return OTHER
    if kernel.operator.startswith("DynamicQuantize"):  # float comes in, the sums are of integers
        return "int8"
    if not kernel.operator.isalnum():
        return COMPILED
    return PRECISIONS.get(kernel.precision, OTHER)


def of_profile(events: Iterable[Mapping[str, Any]]) -> List[Kernel]:  # noqa: UP006
    """The kernels in a profile that ONNX Runtime wrote of one inference."""
    found = []
    for event in events:
        said = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            types = [kind for each in said.get("input_type_shape", []) for kind in each]
            provider = short(said.get("provider", ""))
            found.append(
                Kernel(provider, said.get("op_name", ""), types[0] if types else "", event["name"])
            )
    return found


def short(provider: str) -> str:
    """ONNX Runtime's name of a provider as recipes have it: XnnpackExecutionProvider is xnnpack."""
    return provider.replace("ExecutionProvider", "").lower()
