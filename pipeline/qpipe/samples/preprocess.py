"""From a sample as it travels to what the network is fed: the one place, on the host and on every device.

This file is sent to the board beside the agent, so it needs numpy and nothing else, and Python 3.8.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np


def network_input(source: np.ndarray, how: Dict[str, Any]) -> np.ndarray:  # noqa: UP006
    """One sample's input [H, W, C] (or any shape with layout "none") as the network takes it, batch axis added.

    `how` is a Preprocessing as a dict. With dtype "float32" the network gets (x - mean) / std, mean and std by channel
    (last axis of the source); with any other (uint8 pixels, int64 tokens) the values as they are, in that type.
    """
    array = source.astype(how["dtype"], copy=False)
    if how["dtype"] == "float32" and (any(how["mean"]) or any(each != 1 for each in how["std"])):
        mean = np.asarray(how["mean"], np.float32)
        std = np.asarray(how["std"], np.float32)
        array = (array - mean) / std
    if how["layout"] == "NCHW":
        array = np.moveaxis(array, -1, 0)
    return np.ascontiguousarray(array[np.newaxis])


def feeds(
    inputs: dict[str, np.ndarray], how: dict[str, dict[str, Any]], names: Sequence[str]
) -> Dict[str, np.ndarray]:  # noqa: UP006
    """A sample's inputs by the network's input names; where both have just one, their names need not agree."""
    if len(inputs) == 1 and len(names) == 1:
        ((own, array),) = inputs.items()
        return {names[0]: network_input(array, how[own])}
    return {name: network_input(inputs[name], how[name]) for name in names}
