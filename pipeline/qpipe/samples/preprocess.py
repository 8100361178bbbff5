"""Preprocessing: what a network is fed for a sample, computed alike on the host and on boards.

This file is sent to the board beside the agent, so it needs numpy and nothing else, and Python 3.8.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np


def network_input(source: np.ndarray, preprocessing: Dict[str, Any]) -> np.ndarray:  # noqa: UP006
    """Return one sample's input as the network takes it, with a batch axis of 1.

    `source` is [H, W, C], or of any shape with layout "none". `preprocessing` is a Preprocessing as
    a dict. With dtype "float32" the network gets (x - mean) / std, mean and std by channel (the
    last axis of the source); with any other (uint8 pixels, int64 tokens) the values as they are, in
    that type.
    """
    dtype = preprocessing["dtype"]
    array = source.astype(dtype, copy=False)
    mean = np.asarray(preprocessing["mean"], np.float32)
    std = np.asarray(preprocessing["std"], np.float32)
    if dtype == "float32" and (mean.any() or (std != 1).any()):
        array = (array - mean) / std
    if preprocessing["layout"] == "NCHW":
        array = np.moveaxis(array, -1, 0)
    return np.ascontiguousarray(array[np.newaxis])


def feeds(
    inputs: Dict[str, np.ndarray],  # noqa: UP006
    preprocessing: Dict[str, Dict[str, Any]],  # noqa: UP006
    names: Sequence[str],
) -> Dict[str, np.ndarray]:  # noqa: UP006
    """Return a sample's inputs by the network's input names.

    Where both have just one input, their names need not agree.
    """
    if len(inputs) == 1 and len(names) == 1:
        ((sample_name, array),) = inputs.items()
        return {names[0]: network_input(array, preprocessing[sample_name])}
    return {name: network_input(inputs[name], preprocessing[name]) for name in names}
