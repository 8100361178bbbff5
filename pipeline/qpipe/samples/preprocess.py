"""Preprocessing: what a network is fed for a sample, computed alike on the host and on boards.

This file is sent to the board beside the agent, so it needs numpy and nothing else, and Python 3.8.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

FLOATS = ("float16", "float32", "float64")

Size = Any  # of an axis; what is no number, such as a name, is open
# the sizes of an input's axes; None where nothing is known of it
Shape = Optional[Sequence[Size]]  # noqa: UP045  (Python 3.8 on the board)


def network_input(
    source: np.ndarray,
    preprocessing: Mapping[str, Any],
    shape: Shape = None,
) -> np.ndarray:
    """Return one sample's input as the network takes it, see `with_batch_axis`.

    `source` is [H, W, C], or of any shape with layout "none". `preprocessing` is a Preprocessing as
    a dict. With a floating-point dtype the network gets (x - mean) / std, computed in float32, mean
    and std by channel (the last axis of the source); with any other (uint8 pixels, int64 tokens)
    the values as they are, in that type. `shape` is that of the network's input.
    """
    dtype = preprocessing["dtype"]
    mean = np.asarray(preprocessing["mean"], np.float32)
    std = np.asarray(preprocessing["std"], np.float32)
    array = source
    if dtype in FLOATS and (mean.any() or (std != 1).any()):
        array = (source.astype(np.float32, copy=False) - mean) / std
    array = array.astype(dtype, copy=False)
    if preprocessing["layout"] == "NCHW":
        array = np.moveaxis(array, -1, 0)
    # unlike ascontiguousarray, this keeps an array without axes one
    return np.asarray(with_batch_axis(array, shape), order="C")


def with_batch_axis(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Return an array with a batch axis of 1 where the network's input has one that it lacks.

    An array with as many axes as the input, such as a state or a number without axes, is returned
    as it is. One with an axis fewer gets the axis of 1, or of open size, where the other sizes
    then fit; it is the first where none does, and where nothing is known of the input.
    """
    if shape is None:
        return array[np.newaxis]
    if array.ndim == len(shape):
        return array
    for axis, size in enumerate(shape):
        others = [*shape[:axis], *shape[axis + 1 :]]
        if (size == 1 or not isinstance(size, int)) and fits(array, others):
            return np.expand_dims(array, axis)
    return array[np.newaxis]


def fits(array: np.ndarray, shape: Sequence[Size]) -> bool:
    """Return whether an array has this shape; an open axis takes any size."""
    if array.ndim != len(shape):
        return False
    return all(
        not isinstance(expected, int) or expected == size
        for expected, size in zip(shape, array.shape)  # noqa: B905  (Python 3.8 on the board)
    )


def feeds(
    inputs: Mapping[str, np.ndarray],
    preprocessing: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str, Shape],
) -> Dict[str, np.ndarray]:  # noqa: UP006
    """Return a sample's inputs by the network's input names; `shapes` are those of its inputs.

    Where both have just one input, their names need not agree.
    """
    if len(inputs) == 1 and len(shapes) == 1:
        ((sample_name, array),) = inputs.items()
        ((name, shape),) = shapes.items()
        return {name: network_input(array, preprocessing[sample_name], shape)}
    return {
        name: network_input(inputs[name], preprocessing[name], shape)
        for name, shape in shapes.items()
    }
