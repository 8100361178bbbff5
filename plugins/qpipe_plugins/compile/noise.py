"""What a build computes of noise, on the host, against the network that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.inference import InferenceError, infer, open_session
from qpipe.quant.noise import noise_feeds
from qpipe.quant.output_differences import find_difference
from qpipe.types import Array


def outputs_on_noise(model: ir.Model, *, optimize: bool = False) -> Mapping[str, Array]:
    """Return the outputs on noise, computed on the host."""
    session = open_session(model, optimize=optimize)
    return infer(session, noise_feeds(model.graph.inputs))


def check_unchanged(network: onnx.ModelProto, build: onnx.ModelProto, where: str) -> None:
    """Raise StageError where a float build computes something else than its network.

    A network that does not take noise is not checked.
    """
    model = ir.from_proto(network)
    try:
        expected = outputs_on_noise(model)
    except InferenceError:
        return
    reordered = partial(outputs_on_noise, model, optimize=True)
    built = ir.from_proto(build)
    for value, original in zip(built.graph.inputs, model.graph.inputs, strict=True):
        value.shape = original.shape
    for optimize in (False, True):
        outputs = outputs_on_noise(built, optimize=optimize)
        if list(outputs) != list(expected):
            raise StageError(
                f"{where}: the network has the outputs {', '.join(expected)}, "
                f"its build has {', '.join(outputs)}; please report this",
                failure="wrong answer",
            )
        difference = find_difference(outputs, expected, reordered)
        if difference is not None:
            raise StageError(
                f"{where}: the float build is not exact on noise: {difference}; please report this",
                failure="wrong answer",
            )
