"""Open dimensions of a network's inputs become numbers: 1 for the batch, others as options say.

Those that options name stay open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx

from qpipe.errors import StageError, suggest
from qpipe.quant.network_inputs import BATCH_NAME

InputShapes = Mapping[str, list[int | str]]
Dimensions = Sequence[onnx.TensorShapeProto.Dimension]

# names of dimensions that are no batch even where they come first, as in [time, 1, 80]
OTHER_NAME = re.compile(r"[tlhw]|.*(time|seq|frame|len|step|height|width).*", re.IGNORECASE)


def pin_shapes(
    graph: onnx.GraphProto,
    where: str,
    *,
    shapes: InputShapes,
    batch_axes: Mapping[str, int],
) -> None:
    """Make every dimension of every input a number or a name from the options.

    The shapes of all that follows are forgotten.

    Raise StageError for an open dimension that is not the batch and that no option determines,
    and for an option that does not fit the inputs.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs: dict[str, Dimensions] = {}
    for value in graph.input:
        if value.name not in weights:
            inputs[value.name] = value.type.tensor_type.shape.dim
    _check_options(inputs, where, shapes=shapes, batch_axes=batch_axes)
    symbols = _symbol_sizes(inputs, shapes, batch_axes)
    for name, dimensions in inputs.items():
        batch_axis = _batch_axis(name, dimensions, batch_axes)
        sizes: list[int | str | None] = []
        for dimension in dimensions:
            sizes.append(dimension.dim_value or symbols.get(dimension.dim_param))
        if batch_axis is not None and sizes[batch_axis] is None:
            sizes[batch_axis] = 1
        for axis, size in enumerate(shapes.get(name, sizes)):
            if size is None:
                raise _open_dimension(name, dimensions, axis, where)
            _set_size(dimensions[axis], size)
    _forget_shapes(graph, {*weights, *inputs})


def open_replaced_sizes(graph: onnx.GraphProto, shapes: InputShapes) -> None:
    """Open the axes whose sizes `shapes` replaces or names, such as a fixed batch of 4.

    Otherwise no runtime takes an input of that shape.
    """
    for value in graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for dimension, size in zip(dimensions, shapes.get(value.name, []), strict=False):
            if dimension.dim_value and dimension.dim_value != size:
                dimension.Clear()


def _set_size(dimension: onnx.TensorShapeProto.Dimension, size: int | str) -> None:
    if isinstance(size, int):
        dimension.dim_value = size
    else:
        dimension.dim_param = size


def _forget_shapes(graph: onnx.GraphProto, stated: set[str]) -> None:
    """Forget the shapes of what is computed, also in subgraphs.

    An output that is `stated`, a weight or an input, has its shape from there.
    """
    del graph.value_info[:]
    for value in graph.output:
        if value.name not in stated:
            for dimension in value.type.tensor_type.shape.dim:
                dimension.Clear()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_shapes(attribute.g, stated)


def _check_options(
    inputs: Mapping[str, Dimensions],
    where: str,
    *,
    shapes: InputShapes,
    batch_axes: Mapping[str, int],
) -> None:
    for option, names in (("shapes", list(shapes)), ("batch_axis", list(batch_axes))):
        for name in names:
            if name not in inputs:
                problem = f"{option} names input '{name}', which is not there"
                raise StageError(f"{where}: {problem}; {suggest(name, inputs)}")
    for name, shape in shapes.items():
        rank = len(inputs[name])
        is_sound = all(size >= 1 if isinstance(size, int) else size for size in shape)
        if len(shape) != rank or not is_sound:
            fix = f"give {rank} numbers from 1 up, or names of sizes that differ by sample"
            raise StageError(f"{where}: shapes gives input '{name}' {shape}; {fix}")
    for name, axis in batch_axes.items():
        open_axes = [index for index, size in enumerate(inputs[name]) if not size.dim_value]
        if axis not in open_axes:
            valid = ", ".join(map(str, open_axes)) or "none"
            problem = f"batch_axis of input '{name}' is {axis}"
            raise StageError(f"{where}: {problem}; its open axes are {valid}")


def _symbol_sizes(
    inputs: Mapping[str, Dimensions], shapes: InputShapes, batch_axes: Mapping[str, int]
) -> dict[str, int | str]:
    """Return the sizes of named dimensions that the shape or the batch of any input determines."""
    symbols: dict[str, int | str] = {}
    for name, dimensions in inputs.items():
        axis = _batch_axis(name, dimensions, batch_axes)
        if name not in shapes and axis is not None and dimensions[axis].dim_param:
            symbols[dimensions[axis].dim_param] = 1
    for name, shape in shapes.items():
        for dimension, size in zip(inputs[name], shape, strict=True):
            if dimension.dim_param:
                symbols[dimension.dim_param] = size
    return symbols


def _batch_axis(name: str, dimensions: Dimensions, batch_axes: Mapping[str, int]) -> int | None:
    """Return the open axis of an input that is its batch; None where there is none."""
    if name in batch_axes:
        return batch_axes[name]
    symbols = [dimension.dim_param for dimension in dimensions]
    for axis, symbol in enumerate(symbols):
        if BATCH_NAME.fullmatch(symbol):
            return axis
    is_open = bool(dimensions) and not dimensions[0].dim_value
    return 0 if is_open and not OTHER_NAME.fullmatch(symbols[0]) else None


def _open_dimension(name: str, dimensions: Dimensions, axis: int, where: str) -> StageError:
    """Return the error for an open dimension, with a shape to complete: [1, 3, ?, ?]."""
    symbol = dimensions[axis].dim_param
    symbol_text = f" ('{symbol}')" if symbol else ""
    batch_axis = _batch_axis(name, dimensions, {})
    sizes: list[str] = []
    for index, dimension in enumerate(dimensions):
        default = "1" if index == batch_axis else "?"
        sizes.append(str(dimension.dim_value) if dimension.dim_value else default)
    return StageError(
        f"{where}: dimension {axis}{symbol_text} of input '{name}' is open; "
        f"pin it with shapes: {{{name}: [{', '.join(sizes)}]}}"
    )
