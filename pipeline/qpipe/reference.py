"""What the float network gives on the evaluation samples, on the host: SQNR and agreement are against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qpipe.errors import StageError
from qpipe.samples import Samples
from qpipe.types import Array, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

TYPES = {"float32": "float", "float64": "double"}  # numpy's word -> the runtime's


def float_outputs(model: ir.Model, samples: Samples, progress: Progress) -> Mapping[str, Array]:
    """Each output by name, samples along a new first axis (the batch axis of 1 stays)."""
    import onnx_ir as ir
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    _check_inputs(session, samples.feeds(0, inputs))
    collected: dict[str, list[Array]] = {name: [] for name in names}
    for i in range(len(samples)):
        for name, array in zip(names, session.run(names, samples.feeds(i, inputs)), strict=True):
            collected[name].append(array)
        progress(i + 1, len(samples), "samples")
    return {name: np.stack(arrays) for name, arrays in collected.items()}


def _check_inputs(session: Any, feeds: Mapping[str, Array]) -> None:
    """StageError where the samples are not what the network takes, told as a user sees both."""
    for wanted in session.get_inputs():
        given = feeds[wanted.name]
        kind = TYPES.get(given.dtype.name, given.dtype.name)
        if list(given.shape) != list(wanted.shape) or f"tensor({kind})" != wanted.type:
            takes = f"{wanted.type.removeprefix('tensor(').removesuffix(')')} {list(wanted.shape)}"
            raise StageError(
                f"the samples give {kind} {list(given.shape)}, input '{wanted.name}' of the network takes {takes}; "
                "set size, layout or type of the samples"
            )
