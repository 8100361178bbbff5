"""The network as the user gave it, which import hands on beside what it made of it.

An import stage keeps the file it read; the engine holds the imported network against it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import onnx_ir as ir

META_KEY = "qpipe.given_network"
GIVEN_FLOATS = "qpipe.given_floats"  # in the metadata of a network
# relative to the largest value of an output: what rounding to these types leaves after some layers
ROUNDING = {"float16": 0.02, "bfloat16": 0.1}


class TensorType(NamedTuple):
    """The name and element type of an input or output; the type is None where none is stated."""

    name: str
    type_name: str | None

    def __str__(self) -> str:
        return f"'{self.name}' {self.type_name or 'without type'}"


class Interface(NamedTuple):
    """The inputs and outputs of a network, in their order."""

    inputs: Sequence[TensorType]
    outputs: Sequence[TensorType]


def keep_given(model: ir.Model, content: bytes) -> None:
    """Keep with a network the ONNX file, weights included, that it was read from."""
    model.meta[META_KEY] = content


def given_content(model: ir.Model) -> bytes | None:
    """Return what `keep_given` kept; None where the import stage kept nothing."""
    content = model.meta.get(META_KEY)
    return content if isinstance(content, bytes) else None


def set_given_floats(model: ir.Model, types: Collection[str]) -> None:
    """Record in which other floating-point types than float32 the given network computes."""
    model.metadata_props[GIVEN_FLOATS] = ",".join(sorted(types))


def given_rounding(model: ir.Model) -> float:
    """Return how far the given network may be from the imported one, as it rounds more coarsely.

    That is relative to the largest value of an output; 0 where it computes in float32 or double.
    """
    types = model.metadata_props.get(GIVEN_FLOATS, "").split(",")
    return max(ROUNDING.get(name, 0.0) for name in types)


def interface_of(model: ir.Model) -> Interface:
    """Return the inputs and outputs of a network; inputs with a default are none."""
    return Interface(
        [_tensor_type(value) for value in fed_inputs(model)],
        [_tensor_type(value) for value in model.graph.outputs],
    )


def fed_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs without those that have a default."""
    weights = model.graph.initializers
    return [value for value in model.graph.inputs if value.name not in weights]


def _tensor_type(value: ir.Value) -> TensorType:
    type_name = value.dtype.name.lower() if value.dtype is not None else None
    return TensorType(value.name or "", type_name)


def interface_change(before: Interface, after: Interface) -> str | None:
    """Return the first difference of names, number, order or types; None where there is none.

    A type that is stated only afterwards is none.
    """
    for kind, old, new in (
        ("input", before.inputs, after.inputs),
        ("output", before.outputs, after.outputs),
    ):
        old_names = [tensor.name for tensor in old]
        new_names = [tensor.name for tensor in new]
        if old_names != new_names:
            return f"{kind}s were {', '.join(old_names)}, now are {', '.join(new_names)}"
        for old_tensor, new_tensor in zip(old, new, strict=True):
            if old_tensor.type_name not in (None, new_tensor.type_name):
                return f"{kind} {old_tensor} is now {new_tensor.type_name}"
    return None
