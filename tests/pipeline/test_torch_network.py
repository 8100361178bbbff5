"""An ONNX network in torch computes what ONNX Runtime computes, and operators what ONNX's own test cases say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.case.node import collect_testcases

from networks import NETWORKS, SHAPES, feeds
from qpipe.quant.in_torch.operator_table import OPERATORS, torch_operator
from qpipe.quant.inference import infer, open_session
from qpipe_plugins.models.onnx_file import onnx_file

torch = pytest.importorskip("torch", reason="needs torch: pip install 'qpipe-edge[train]'")

from qpipe.quant.in_torch.torch_network import TorchNetwork, to_torch  # noqa: E402

# torch takes seconds to import: once for all tests of training
pytestmark = pytest.mark.xdist_group("student")

FOREIGN = {"recurrent": ["LSTM", "GRU"], "branches": ["If", "Loop"]}
# random by definition; text; sets without elements; what ONNX Runtime itself computes otherwise
OTHERWISE = {
    "test_training_dropout_default", "test_training_dropout_default_mask", "test_training_dropout",
    "test_training_dropout_mask", "test_equal_string", "test_equal_string_broadcast",
    "test_reduce_max_empty_set", "test_reduce_max_empty_set_bool", "test_reduce_min_empty_set",
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}  # fmt: skip


def imported(name: str, folder: Path) -> ir.Model:
    onnx.save(NETWORKS[name](), folder / "theirs.onnx")
    return onnx_file(path=folder / "theirs.onnx", shapes=SHAPES.get(name))


def computed(network: TorchNetwork, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = network.outputs({name: to_torch(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    model = imported(name, tmp_path)
    session = open_session(model, optimize=False)
    network = TorchNetwork(model)
    for inputs in feeds(name, 1):
        outputs = computed(network, inputs)
        for label, expected in infer(session, inputs).items():
            assert outputs[label].shape == expected.shape
            largest = np.abs(expected).max()
            np.testing.assert_allclose(outputs[label], expected, atol=5e-6 * largest)
    operators = [node.op_type for node in network.foreign_nodes]
    assert operators == FOREIGN.get(name, [])


def cases() -> Iterator[Any]:
    """ONNX's test cases of single operators of the table, of types that numpy has."""
    for case in collect_testcases(None):
        arrays = [array for inputs, outputs in case.data_sets for array in (*inputs, *outputs)]
        is_plain = all(isinstance(array, np.ndarray | np.generic) for array in arrays)
        operators = {(node.domain, node.op_type) for node in case.model.graph.node}
        if is_plain and operators <= OPERATORS.keys() and case.name not in OTHERWISE:
            yield case


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # what ONNX's cases do in numpy
def test_operators_compute_what_onnx_says() -> None:
    count = 0
    for case in cases():
        network = TorchNetwork(ir.from_proto(case.model))
        names = [value.name for value in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            results = computed(network, dict(zip(names, map(np.asarray, inputs), strict=False)))
            for value, expected in zip(case.model.graph.output, outputs, strict=True):
                result = results[value.name]
                assert result.shape == np.shape(expected), case.name
                np.testing.assert_allclose(
                    result.astype(np.float64), np.asarray(expected, np.float64),
                    rtol=1e-3, atol=1e-5, err_msg=case.name,
                )  # fmt: skip
        count += 1
    assert count > 400


def test_a_plugin_adds_an_operator_and_gradients_pass_through_it() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    net (float[1, 4] x) => (float[1, 4] y) { y = com.microsoft.QuickGelu <alpha = 2.0> (x) }"""
    model = ir.from_onnx_text(text)
    x = torch.tensor([[-1.0, 0.5, 2.0, -3.0]], requires_grad=True)
    (expected,) = infer(open_session(model), {"x": x.detach().numpy()}).values()
    foreign = TorchNetwork(model)
    result = foreign.outputs({"x": x})["y"]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5)
    assert not result.requires_grad
    assert list(foreign.foreign_nodes.values()) == ["torch has no function for it"]

    @torch_operator("QuickGelu", domain="com.microsoft")
    def quick_gelu(operation: Any, x: Any) -> Any:
        return x * (x * operation.number("alpha", 1.702)).sigmoid()

    try:
        result = TorchNetwork(model).outputs({"x": x})["y"]
    finally:
        del OPERATORS["com.microsoft", "QuickGelu"]
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-5)
    result.sum().backward()
    assert x.grad is not None


def test_it_computes_from_any_tensor_on() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 2] x) => (float[1, 2] y) { a = Relu (x) b = Neg (a) y = Exp (b) }"""
    model = ir.from_onnx_text(text)
    values = {value.name: value for node in model.graph for value in node.outputs}
    network = TorchNetwork(model)
    given = torch.tensor([[1.0, -2.0]])
    result = network.compute({values["a"]: given}, [values["b"], values["y"]])
    np.testing.assert_allclose(result[values["b"]].numpy(), [[-1, 2]])
    np.testing.assert_allclose(result[values["y"]].numpy(), np.exp([[-1, 2]]), rtol=1e-6)
