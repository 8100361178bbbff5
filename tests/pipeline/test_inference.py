"""Sessions on the host: what they give, and how errors of ONNX Runtime are told."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import StageError
from qpipe.quant.inference import InferenceError, infer, open_session

NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[n, 4] x) => (float[n, 4] y) {
    zero = Constant <value_floats = [0.0, 0.0, 0.0, 0.0]> ()
    [joined] h = Add (x, zero)
    [cut] y = Reshape (h, shape)
}
"""


def network(shape: list[int]) -> ir.Model:
    tensor = ir.tensor(np.array(shape, np.int64), name="shape")
    return ir.from_onnx_text(NET, initializers=[tensor])


def test_outputs_are_by_name_and_may_be_inner_tensors() -> None:
    model = network([-1, 4])
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(infer(open_session(model), {"x": x})["y"], x)
    outputs = infer(open_session(model, ["h"], optimize=False), {"x": x})
    assert list(outputs) == ["h"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_an_error_of_a_run_is_one_line_that_names_the_node(
    capfd: pytest.CaptureFixture[str],
) -> None:
    session = open_session(network([3, 4]), optimize=False)
    with pytest.raises(InferenceError) as caught:
        infer(session, {"x": np.ones((2, 4), np.float32)})
    assert caught.value.node == "Reshape 'cut'"
    message = str(caught.value)
    assert message.startswith(
        "network 'net': ONNX Runtime cannot run Reshape 'cut' on x float32[2, 4]: "
    )
    assert "\n" not in message
    assert capfd.readouterr().err == ""


def test_a_network_that_does_not_load_is_an_error_that_names_the_node() -> None:
    model = network([-1, 4])
    model.graph[1].op_type = "Nonsense"
    with pytest.raises(StageError, match=r"^network 'net': ONNX Runtime cannot load .*Nonsense"):
        open_session(model)
