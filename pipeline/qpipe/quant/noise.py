"""Noise to feed a network with where there are no samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qpipe.types import Array

OPEN_SIZE = 64  # of an axis that is open: longer than most kernels, shorter than most texts


def noise_feeds(inputs: Iterable[ir.Value]) -> dict[str, Array]:
    """Return the same noise each time for inputs of known shape: floats, or integers 0 and 1."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in inputs:
        assert value.shape is not None
        assert value.dtype is not None
        sizes = [size if isinstance(size, int) else OPEN_SIZE for size in value.shape]
        noise: Array = random.normal(size=sizes)
        if not value.dtype.is_floating_point():
            noise = noise > 0
        feeds[value.name or ""] = noise.astype(value.dtype.numpy())
    return feeds
