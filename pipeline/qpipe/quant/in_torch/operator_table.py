"""The operators of ONNX that torch computes, as a table that plugins extend.

A plugin registers a function where its module is loaded, and imports torch in the function:

    @torch_operator("Swish", domain="com.example")
    def swish(operation, x):
        return x * x.sigmoid()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

Tensor = Any  # a torch.Tensor
# takes the operation and a tensor for each input, None for one that is left out; gives the output,
# or a sequence of the outputs
TorchFunction = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    """A node, with what its function may ask for beside the tensors."""

    node: ir.Node
    opset: int  # the version of its domain's operators

    def number(self, name: str, default: float = 0.0) -> float:
        """Return an attribute of type float."""
        return self.node.attributes.get_float(name, default)

    def integer(self, name: str, default: int = 0) -> int:
        """Return an attribute of type int."""
        return self.node.attributes.get_int(name, default)

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute of type ints; None where it is left out."""
        values = self.node.attributes.get_ints(name)
        return None if values is None else list(values)

    def text(self, name: str, default: str = "") -> str:
        """Return an attribute of type string."""
        return self.node.attributes.get_string(name, default)

    def file_shape(self, index: int) -> list[int | None] | None:
        """Return the shape of an input in the network's file; None where it is unknown.

        Sizes that are open are None.
        """
        value = self.node.inputs[index]
        if value is None or value.shape is None:
            return None
        return [size if isinstance(size, int) else None for size in value.shape]


OPERATORS: dict[tuple[str, str], TorchFunction] = {}


def torch_operator(*names: str, domain: str = "") -> Callable[[TorchFunction], TorchFunction]:
    """Register a function for operators of a domain; a later one replaces an earlier one."""

    def register(function: TorchFunction) -> TorchFunction:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return register


def as_outputs(result: Any) -> Sequence[Any]:
    """Return what a function gave as a sequence of outputs."""
    return result if isinstance(result, list | tuple) else (result,)
