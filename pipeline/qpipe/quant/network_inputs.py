"""What a network takes: shapes and types of its inputs, and which of them its outputs feed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.samples.preprocess import Shape
from qpipe.samples.sample_feeds import NetworkInputs

if TYPE_CHECKING:
    import onnxruntime

# names of an open batch, on any axis
BATCH_NAME = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
# in the metadata of a network
STATES = "qpipe.states"
FIXED_VALUES = "qpipe.fixed_values"
NUMPY_TYPES = {"float": "float32", "double": "float64"}  # others are named alike


def set_states(model: ir.Model, states: Mapping[str, str]) -> None:
    """Record in a network which output feeds which input at the next chunk of a sequence."""
    if states:
        model.metadata_props[STATES] = json.dumps(dict(states))


def states_of(network: ir.Model | onnxruntime.InferenceSession) -> dict[str, str]:
    """Return the output that feeds each state of a network, by input."""
    if isinstance(network, ir.Model):
        text = network.metadata_props.get(STATES)
    else:
        text = network.get_modelmeta().custom_metadata_map.get(STATES)
    states: dict[str, str] = json.loads(text or "{}")
    return states


def set_fixed_values(model: ir.Model, values: Mapping[str, float]) -> None:
    """Record in a network which of its inputs it takes for one number, whatever they are fed."""
    if values:
        model.metadata_props[FIXED_VALUES] = json.dumps(dict(values))


def fixed_values_of(model: ir.Model) -> dict[str, float]:
    """Return the numbers that a network takes for inputs, whatever they are fed."""
    values: dict[str, float] = json.loads(model.metadata_props.get(FIXED_VALUES, "{}"))
    return values


def network_inputs(network: ir.Model | onnxruntime.InferenceSession) -> NetworkInputs:
    """Return what a network takes."""
    types: dict[str, str] = {}
    if isinstance(network, ir.Model):
        for value in network.graph.inputs:
            types[value.name or ""] = "float32" if value.dtype is None else value.dtype.numpy().name
    else:
        for node in network.get_inputs():
            onnx_type = node.type.removeprefix("tensor(").removesuffix(")")
            types[node.name] = NUMPY_TYPES.get(onnx_type, onnx_type)
    return NetworkInputs(input_shapes(network), types, states_of(network))


def input_shapes(
    network: ir.Model | onnxruntime.InferenceSession, names: Collection[str] | None = None
) -> dict[str, Shape]:
    """Return the shapes of a network's inputs, or of those that are named, in its order."""
    shapes: dict[str, Shape] = {}
    if isinstance(network, ir.Model):
        for value in network.graph.inputs:
            shapes[value.name or ""] = None if value.shape is None else list(value.shape)
    else:
        for node in network.get_inputs():
            shapes[node.name] = node.shape
    return {name: shape for name, shape in shapes.items() if names is None or name in names}
