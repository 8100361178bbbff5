"""Activations of fewer than 8 bits: so many codes and no more, on the integer kernels of 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import conv_net, images, run, statistics_of
from processors import machine_kind, session
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import quantize_activations
from qpipe.quant.arithmetic import dequantize, sqnr_db
from qpipe.quant.target_check import check_target
from qpipe.types import ANY_TARGET, Platform, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.symmetric import symmetric

LEVELS = 16
FACTORS = {"stem_out", "deep_out", "pooled"}  # what layers multiply; `features` are moved only
OTHERS = {"image", "flat", "joined"}


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(16))


def quantized(statistics, target: Target = ANY_TARGET, *, bits: int = 4) -> ir.Model:
    model = symmetric(conv_net(), statistics, target, activation_range="none")
    return activations(model, statistics, target, activation_range="mse", bits=bits)


def test_what_layers_multiply_has_the_codes_of_its_bits_and_all_else_keeps_8(statistics):
    model = quantized(statistics)
    pairs = {node.inputs[0].name: node for node in model.graph if node.op_type == "QuantizeLinear"}
    assert pairs.keys() == FACTORS | OTHERS | {"features"}
    assert [node.op_type for node in model.graph].count("Clip") == 2 + len(FACTORS)  # two ReLU6
    names = [name for source in pairs for name in (source, f"{source}_dequantized")]
    outputs = run(model, images(8, seed=3), names)
    made = {name: np.stack([one[name] for one in outputs]) for name in names}
    for name, quantizer in pairs.items():
        scale, zero_point = qdq.scale_and_zero_point_of(quantizer)
        highest = 255 if name in OTHERS else LEVELS - 1
        codes = np.rint(made[name] / scale) + int(zero_point)
        expected = dequantize(codes.clip(0, highest).astype(np.uint8), scale, zero_point)
        np.testing.assert_array_equal(made[f"{name}_dequantized"], expected)
    assert len(np.unique(made["deep_out_dequantized"])) == LEVELS
    assert len(np.unique(made["flat_dequantized"])) > LEVELS


def test_fewer_bits_leave_more_noise(statistics):
    exact = run(conv_net(), images(4, seed=3))

    def noise_db(bits: int) -> float:
        made = run(quantized(statistics, bits=bits), images(4, seed=3))
        return sqnr_db(*(np.stack([one["logits"] for one in each]) for each in (exact, made)))

    noise = [noise_db(bits) for bits in (2, 3, 4, 6, 8)]
    assert noise == sorted(noise)
    assert noise[-1] - noise[2] > 12  # 24 where nothing else is rounded


def test_the_file_runs_on_integer_kernels_with_a_clip_of_integers(statistics, tmp_path: Path):
    build = onnxruntime(quantized(statistics), Platform(), tmp_path / "build")
    network = onnx.load(build.folder / "model.onnx")
    session(network, machine_kind(), optimized_path=tmp_path / "optimized.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert nodes.count("QLinearConv") == 3
    assert nodes.count("QGemm") == nodes.count("QLinearAdd") == 1
    assert nodes.count("Clip") == len(FACTORS)  # those of the network are absorbed
    assert nodes.count("QuantizeLinear") == 1
    assert not {"Conv", "Add", "Gemm", "DequantizeLinear"} & set(nodes)


def test_a_file_for_kernels_of_int8_gives_the_same_numbers(statistics, tmp_path: Path):
    made = []
    for arch in ("x86_64", "aarch64"):
        platform = Platform(arch=arch)
        build = onnxruntime(quantized(statistics), platform, tmp_path / arch, packing="never")
        network = ir.load(build.folder / "model.onnx")
        made.append(run(network, images(4)))
    bounds = [node.inputs[2] for node in network.graph if node.op_type == "Clip"]
    assert {value.const_value.numpy().item() for value in bounds} == {LEVELS - 1 - 128}
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one["logits"], other["logits"])


@pytest.mark.parametrize("shifts", [False, True])
def test_where_zero_has_to_be_the_middle_code_the_few_codes_lie_around_it(shifts, statistics):
    target = Target(symmetric_only=True, power_of_two_scales=shifts)
    model = quantized(statistics, target)
    check_target(model, target)
    names = sorted(f"{name}_quantized_bounded" for name in FACTORS)
    proto = ir.to_proto(model)
    for name in names:
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
        )
    codes = session(proto, machine_kind(), optimize=False).run(names, {"image": images(1)[0]})
    assert min(array.min() for array in codes) >= 128 - LEVELS // 2
    assert max(array.max() for array in codes) == 128 + LEVELS // 2 - 1


def test_bits_that_there_are_not_and_a_network_too_old_are_named(statistics):
    with pytest.raises(StageError, match="activations: bits is 1; it must be 2 to 8, or 16"):
        quantize_activations(conv_net(), statistics, bits=1)
    old = conv_net()
    old.opset_imports[""] = 11
    with pytest.raises(StageError, match="activations: 4 bits need opset 12; export the network"):
        quantize_activations(old, statistics, bits=4)
