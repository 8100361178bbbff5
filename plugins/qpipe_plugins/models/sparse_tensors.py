"""Sparse weights become dense: onnx_ir reads no others, and runtimes compute with dense ones."""

from __future__ import annotations

import math

import numpy as np
import onnx
from google.protobuf.message import Message

from qpipe.errors import StageError
from qpipe_plugins.models.network_checks import MAX_ELEMENTS


def densify(message: Message, where: str) -> None:
    """Replace sparse initializers and Constants, also those in branches and functions."""
    if isinstance(message, onnx.GraphProto):
        for sparse in message.sparse_initializer:
            message.initializer.append(_dense(sparse, where))
        message.ClearField("sparse_initializer")
    if isinstance(message, onnx.AttributeProto) and message.HasField("sparse_tensor"):
        message.t.CopyFrom(_dense(message.sparse_tensor, where))
        message.ClearField("sparse_tensor")
        message.type = onnx.AttributeProto.TENSOR
        message.name = "value"
    for submessage in _submessages(message):
        densify(submessage, where)


def _submessages(message: Message) -> list[Message]:
    """Return the parts of a message that may hold sparse tensors."""
    if isinstance(message, onnx.ModelProto):
        return [message.graph, *message.functions]
    if isinstance(message, onnx.GraphProto | onnx.FunctionProto):
        return list(message.node)
    if isinstance(message, onnx.NodeProto):
        return list(message.attribute)
    if isinstance(message, onnx.AttributeProto):
        return [message.g] if message.HasField("g") else list(message.graphs)
    return []


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    name = sparse.values.name
    shape = list(sparse.dims)
    size = math.prod(shape)
    if size > MAX_ELEMENTS:
        problem = f"sparse weight '{name}' has {size} elements"
        raise StageError(f"{where}: {problem}; the limit is {MAX_ELEMENTS}")
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    positions = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)
    array = np.zeros(shape, values.dtype)
    array[positions] = values
    return onnx.numpy_helper.from_array(array, name)
