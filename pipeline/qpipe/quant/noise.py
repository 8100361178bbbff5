"""Noise to feed a network with where there are no samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qpipe.types import Array


def noise_feeds(inputs: Iterable[ir.Value]) -> dict[str, Array]:
    """Return the same noise each time for inputs of static shape: floats, or integers 0 and 1."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in inputs:
        assert value.shape is not None
        assert value.dtype is not None
        noise: Array = random.normal(size=value.shape.numpy())
        if not value.dtype.is_floating_point():
            noise = noise > 0
        feeds[value.name or ""] = noise.astype(value.dtype.numpy())
    return feeds
