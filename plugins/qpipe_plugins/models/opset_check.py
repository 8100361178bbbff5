"""Whether a network in a newer opset computes what it did before, tried on noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.given_network import fed_inputs
from qpipe.quant.inference import InferenceError, infer, open_file, open_session
from qpipe.quant.noise import noise_feeds
from qpipe.quant.output_differences import find_difference
from qpipe.types import Array


def check_raised(given: bytes, raised: onnx.ModelProto, where: str, *, opset: int) -> None:
    """Raise StageError where raising the opset has changed an output.

    Open sizes of the raised network take one number. One that does not take noise is not checked.
    """
    model = ir.from_proto(raised)
    feeds = noise_feeds(fed_inputs(model))
    try:
        expected = infer(open_file(given, optimize=False), feeds)
        outputs = infer(open_session(model, optimize=False), feeds)
    except InferenceError:
        return
    difference = find_difference(outputs, expected, partial(_optimized, given, feeds))
    if difference is not None:
        new_opset = model.opset_imports.get("", 0)
        raise StageError(
            f"{where}: raising opset {opset} to {new_opset} changes {difference}; "
            f"export it with opset {new_opset} or later"
        )


def _optimized(given: bytes, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    return infer(open_file(given), feeds)
