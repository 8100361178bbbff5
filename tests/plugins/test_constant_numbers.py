"""Products and sums with one number: folded into convolutions, or kept on integers as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from models import images, statistics_of
from processors import Arithmetic, both_kinds, session
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.coverage import coverage
from qpipe.types import Platform, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.symmetric import symmetric

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 4, {size}, {size}] y)
  <float factor = {{ {factor} }}, float offset = {{ {offset} }}>
{{
  wide = Conv (image, wide_w)
  swish = HardSwish (wide)
  scaled = Mul (swish, factor)
  shifted = Add (offset, scaled)
  y = Conv <pads = [{pad}, {pad}, {pad}, {pad}]> (shifted, last_w)
}}
"""
RANDOM = np.random.default_rng(6)
WEIGHTS = {
    "wide_w": RANDOM.normal(0, 0.4, (16, 3, 3, 3)).astype(np.float32),
    "last_w": RANDOM.normal(0, 0.3, (4, 16, 3, 3)).astype(np.float32),
}
INPUTS = images(6)


def net(factor: float = 1.7, offset: float = -0.3, pad: int = 1) -> ir.Model:
    text = NET.format(factor=factor, offset=offset, pad=pad, size=12 + 2 * pad)
    tensors = [ir.tensor(array, name=name) for name, array in WEIGHTS.items()]
    model = ir.to_proto(ir.from_onnx_text(text, initializers=tensors))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def outputs(running: ort.InferenceSession) -> np.ndarray:
    return np.stack([running.run(None, {"image": image})[0] for image in INPUTS])


def float_outputs(model: ir.Model) -> np.ndarray:
    proto = ir.to_proto(model).SerializeToString()
    return outputs(ort.InferenceSession(proto, providers=["CPUExecutionProvider"]))


def imported(folder: Path, **numbers: float) -> ir.Model:
    ir.save(net(**numbers), folder / "net.onnx")
    return onnx_file(path=folder / "net.onnx")


@pytest.mark.parametrize(("pad", "stays"), [(0, []), (1, ["Mul", "Add"])])
def test_what_only_convolutions_read_folds_into_them_a_sum_where_nothing_is_padded(
    pad: int, stays: list[str], tmp_path: Path
) -> None:
    model = imported(tmp_path, pad=pad)
    assert [node.op_type for node in model.graph] == ["Conv", "HardSwish", *stays, "Conv"]
    expected = float_outputs(net(pad=pad))
    np.testing.assert_allclose(
        float_outputs(model), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_a_product_folds_into_padded_convolutions_and_not_into_others(tmp_path: Path) -> None:
    model = net()
    shifted = next(node for node in model.graph if node.op_type == "Add")
    shifted.outputs[0].replace_all_uses_with(shifted.inputs[1])
    model.graph.remove(shifted, safe=True)
    scaled = next(node for node in model.graph if node.op_type == "Mul").outputs[0]
    ir.save(model, tmp_path / "one.onnx")
    assert "Mul" not in {node.op_type for node in onnx_file(path=tmp_path / "one.onnx").graph}
    model.graph.outputs.append(scaled)
    ir.save(model, tmp_path / "two.onnx")
    assert "Mul" in {node.op_type for node in onnx_file(path=tmp_path / "two.onnx").graph}


@both_kinds
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("factor", "offset"), [(1.7, -0.3), (0.02, 0.5), (-2.5, 1.25)])
def test_they_run_on_integers_and_a_positive_factor_is_only_another_scale(
    factor: float, offset: float, arch: str, kind: Arithmetic, tmp_path: Path
) -> None:
    model = net(factor, offset)
    assert {"Mul", "Add"} <= set(coverage(model).integer)
    quantized = symmetric(net(factor, offset), statistics_of(model, INPUTS), kind.target)
    assert {"Mul", "Add"} <= set(coverage(quantized).integer)
    build = onnxruntime(quantized, Platform(arch=arch), tmp_path)
    proto = onnx.load(build.folder / "model.onnx")
    products = [node.op_type for node in proto.graph.node].count("Mul")
    assert products == (1 if factor > 0 else 2), "that of hard swish, and one that changes signs"
    path = tmp_path / "optimized.onnx"
    entries = {"session.qdqisint8allowed": "1"} if arch == "aarch64" else None
    found = outputs(session(proto, kind, optimized_path=path, entries=entries))
    kernels = {node.op_type for node in onnx.load(path).graph.node}
    assert not kernels & {"Mul", "Add", "HardSwish"}
    # 4 roundings to 255 levels of about 7 sigma leave 42 - 6 dB, weights of 7 bits 37 - 3
    assert sqnr_db(float_outputs(model), found) > 28


def numbers(model: ir.Model) -> dict[str, float]:
    """What Mul and Add read as their constant side, by the ONNX definition."""
    values = {}
    for node in model.graph:
        for value in node.inputs:
            source = value.producer() if value is not None else None
            if node.op_type in ("Mul", "Add") and source is not None:
                codes, scale, zero_point = (one.const_value for one in source.inputs)
                if codes is not None:
                    code = int(codes.numpy()) - int(zero_point.numpy())
                    values[node.op_type] = code * float(scale.numpy())
    return values


@pytest.mark.parametrize("target", [Target(), Target(symmetric_only=True)])
@pytest.mark.parametrize(("factor", "offset"), [(1.7, -0.3), (-0.02, 0.5)])
def test_integers_hold_a_number_exactly(factor: float, offset: float, target: Target) -> None:
    quantized = symmetric(net(factor, offset), statistics_of(net(factor, offset), INPUTS), target)
    assert numbers(quantized) == {"Mul": np.float32(factor), "Add": np.float32(offset)}


def test_scales_that_are_powers_of_two_hold_it_to_half_a_percent() -> None:
    target = Target(power_of_two_scales=True)
    quantized = symmetric(net(), statistics_of(net(), INPUTS), target)
    assert numbers(quantized) == {
        "Mul": pytest.approx(1.7, rel=0.01),
        "Add": pytest.approx(-0.3, rel=0.01),
    }
