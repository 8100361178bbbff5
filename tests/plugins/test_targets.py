"""What a target demands of quantization: every stage keeps to it, and what does not is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import conv_net, images, run, statistics_of
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.statistics import Statistics
from qpipe.quant.target_check import check_target
from qpipe.types import Array, Target
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

STRICT = Target(symmetric_only=True, per_tensor_weights=True, power_of_two_scales=True)
MIDDLE = {"uint8": 128, "int8": 0, "int32": 0}


@pytest.fixture(scope="module")
def inputs() -> list[Array]:
    return images(12)


@pytest.fixture(scope="module")
def statistics(inputs: list[Array]) -> Statistics:
    return statistics_of(conv_net(), inputs)


def pairs(model: ir.Model) -> list[tuple[str, Array, Array]]:
    """operator, scale and zero point of each quantizing and dequantizing node, read by onnx itself."""
    proto = ir.to_proto(model)
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
    }
    found = []
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found.append((node.op_type, constants[node.input[1]], constants[node.input[2]]))
    return found


@pytest.mark.parametrize("stage", [symmetric, logarithmic])
def test_every_scale_and_zero_point_is_what_the_target_takes(stage, statistics: Statistics) -> None:
    found = pairs(stage(conv_net(), statistics, STRICT))
    assert len({operator for operator, _, _ in found}) == 2
    for _, scale, zero_point in found:
        assert scale.size == 1
        assert np.log2(scale) == np.rint(np.log2(scale))
        assert zero_point == MIDDLE[zero_point.dtype.name]
    check_target(stage(conv_net(), statistics, STRICT), STRICT)


def test_no_value_is_lost_to_a_scale_that_is_a_power_of_two(
    statistics: Statistics, inputs: list[Array]
) -> None:
    """minmax ranges: the levels of the wider scale still reach the extremes, so the error is at most half a step."""
    exact, wide = (
        symmetric(conv_net(), statistics, t) for t in (Target(), Target(power_of_two_scales=True))
    )
    for (_, scale, _), (_, power, _) in zip(pairs(exact), pairs(wide), strict=True):
        assert (power >= scale * (1 - 1e-6)).all()
        assert (power < scale * 2).all()


def test_eight_bit_weights_do_not_overflow_where_sums_saturate(statistics: Statistics) -> None:
    target = Target(saturates=True)
    for model in (
        symmetric(conv_net(), statistics, target),
        symmetric(conv_net(), statistics, target, bits=8, granularity="tensor"),
        asymmetric(conv_net(), statistics, target),
        logarithmic(conv_net(), statistics, target),
    ):
        for weight in qdq.weights(model):
            rows = weight.to_rows(weight.quantized.codes.astype(int))
            if weight.kind == "depthwise":
                assert np.abs(rows).max() >= 127  # its kernels add in 32 bits
                continue
            channels = weight.array.shape[1]
            # 3 or 8 channels fastest, at one or nine positions
            in_order = rows.reshape(len(rows), channels, -1).swapaxes(1, 2).reshape(len(rows), -1)
            pairs = in_order[:, : in_order.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
            assert 255 * pairs.clip(min=0).sum(axis=2).max() <= np.iinfo(np.int16).max
            assert 255 * pairs.clip(max=0).sum(axis=2).min() >= np.iinfo(np.int16).min


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            Target(per_tensor_weights=True),
            "one scale per channel, but the target takes one per tensor",
        ),
        (
            Target(power_of_two_scales=True),
            "a scale that is not a power of two, but the target takes no other",
        ),
        (
            Target(symmetric_only=True),
            "a zero point other than the middle, but the target takes no other",
        ),
    ],
)
def test_a_network_that_the_target_does_not_take_is_refused(
    target: Target, message: str, statistics: Statistics
) -> None:
    with pytest.raises(StageError, match=message):
        check_target(symmetric(conv_net(), statistics), target)


def test_asymmetric_weights_are_refused_where_zero_points_are_fixed(statistics: Statistics) -> None:
    with pytest.raises(StageError, match="takes zero points in the middle only; use symmetric"):
        asymmetric(conv_net(), statistics, Target(symmetric_only=True))


def test_a_network_for_a_strict_target_still_computes_what_float_does(
    statistics: Statistics, inputs: list[Array]
) -> None:
    name = conv_net().graph.outputs[0].name or ""
    models = conv_net(), symmetric(conv_net(), statistics, STRICT)
    exact, strict = (
        np.concatenate([each[name] for each in run(model, inputs)]) for model in models
    )
    assert sqnr(exact, strict) > 15


def sqnr(exact: Array, approximation: Array) -> float:
    """In dB."""
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - approximation).sum()))
