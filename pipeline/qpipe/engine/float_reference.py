"""What the float network gives on the evaluation samples, on the host: SQNR and agreement are against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress

if TYPE_CHECKING:
    import onnx_ir as ir


def float_outputs(model: ir.Model, samples: Samples, progress: Progress) -> Mapping[str, Array]:
    """Each output by name, samples along a new first axis (the batch axis of 1 stays)."""
    import onnx_ir as ir
    import onnxruntime

    check_fit(model, samples)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    collected: dict[str, list[Array]] = {name: [] for name in names}
    for i in range(len(samples)):
        for name, array in zip(names, session.run(names, samples.feeds(i, inputs)), strict=True):
            collected[name].append(array)
        progress(i + 1, len(samples), "samples")
    return {name: np.stack(arrays) for name, arrays in collected.items()}


def check_fit(model: ir.Model, samples: Samples) -> None:
    """StageError where the first sample is not what the network takes, told as a user sees both."""
    inputs = list(model.graph.inputs)
    feeds = samples.feeds(0, [value.name or "" for value in inputs])
    for value in inputs:
        given = feeds[value.name or ""]
        wanted = [size if isinstance(size, int) else None for size in value.shape or ()]
        fits = len(wanted) == given.ndim and all(
            w in (None, g) for w, g in zip(wanted, given.shape, strict=True)
        )
        dtype = value.dtype.numpy().name if value.dtype is not None else given.dtype.name
        if not fits or given.dtype.name != dtype:
            raise StageError(
                f"the samples give {given.dtype.name} {list(given.shape)}, input '{value.name}' of the network takes "
                f"{dtype} {wanted}; set size, layout or type of the samples"
            )
