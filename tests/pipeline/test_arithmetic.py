from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qpipe.quant.arithmetic import (
    dequantize,
    fake_quantize,
    quantize,
    scale_and_zero_point,
    sqnr_db,
)

DTYPES = {"uint8": np.uint8, "int8": np.int8, "uint16": np.uint16, "int16": np.int16}
floats = st.floats(-1e4, 1e4, width=32)
scales = st.floats(2**-20, 2**10, width=32)


def session(integer: str, axis: int | None) -> onnxruntime.InferenceSession:
    attribute, shape = ("", "") if axis is None else (f"<axis = {axis}>", "[C]")
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    pair (float[N, C] x, float{shape} scale, {integer}{shape} zero) => ({integer}[N, C] codes, float[N, C] restored) {{
      codes = QuantizeLinear {attribute} (x, scale, zero)
      restored = DequantizeLinear {attribute} (codes, scale, zero)
    }}"""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        ir.to_proto(ir.from_onnx_text(text)).SerializeToString(), options
    )


SESSIONS = {(name, axis): session(name, axis) for name in DTYPES for axis in (None, 1)}


@pytest.mark.parametrize("integer", DTYPES)
@given(x=hnp.arrays(np.float32, (3, 4), elements=floats), scale=scales, data=st.data())
def test_per_tensor_quantize_and_dequantize_are_those_of_onnxruntime(integer, x, scale, data):
    limits = np.iinfo(DTYPES[integer])
    zero_point = np.array(data.draw(st.integers(limits.min, limits.max)), DTYPES[integer])
    feeds = {"x": x, "scale": np.float32(scale), "zero": zero_point}
    codes, restored = SESSIONS[integer, None].run(
        None, {k: np.asarray(v) for k, v in feeds.items()}
    )
    ours = quantize(x, scale, zero_point, dtype=DTYPES[integer])
    np.testing.assert_array_equal(ours, codes)
    np.testing.assert_array_equal(dequantize(ours, scale, zero_point), restored)


@given(
    x=hnp.arrays(np.float32, (3, 4), elements=floats),
    scale=hnp.arrays(np.float32, 4, elements=scales),
)
def test_per_channel_quantize_is_that_of_onnxruntime_and_of_each_slice_alone(x, scale):
    codes, restored = SESSIONS["int8", 1].run(
        None, {"x": x, "scale": scale, "zero": np.zeros(4, np.int8)}
    )
    ours = quantize(x, scale, axis=1)
    np.testing.assert_array_equal(ours, codes)
    np.testing.assert_array_equal(dequantize(ours, scale, axis=1), restored)
    for channel in range(4):
        np.testing.assert_array_equal(ours[:, channel], quantize(x[:, channel], scale[channel]))


def test_quantize_rounds_half_to_even():
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert quantize(halves, 1.0).tolist() == [-2, -2, 0, 0, 2, 2]


def test_quantize_saturates_at_both_ends():
    assert quantize(np.array([-1e30, 1e30], np.float32), 1e-30, dtype=np.int8).tolist() == [
        -128,
        127,
    ]


@given(low=floats, high=floats, integer=st.sampled_from(sorted(DTYPES)))
def test_zero_is_exactly_representable_whatever_the_interval(low, high, integer):
    scale, zero_point = scale_and_zero_point(min(low, high), max(low, high), DTYPES[integer])
    zero = np.zeros(1, np.float32)
    assert fake_quantize(zero, scale, zero_point, dtype=DTYPES[integer]) == 0


@given(x=hnp.arrays(np.float32, 20, elements=floats))
def test_no_value_of_the_interval_is_further_than_one_scale_from_its_code(x):
    # half a scale for rounding, up to half more at the ends for a zero point that is a whole number
    scale, zero_point = scale_and_zero_point(x.min(), x.max())
    error = np.abs(fake_quantize(x, scale, zero_point, dtype=np.uint8) - x.astype(np.float64))
    assert (error <= scale * (1 + 2**-12)).all()


def test_an_interval_from_zero_up_has_zero_point_zero():
    scale, zero_point = scale_and_zero_point(0.0, 5.1)
    assert zero_point == 0
    assert scale == np.float32(5.1 / 255)


def test_sqnr_of_noise_a_hundredth_of_the_signal_power_is_20_db():
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
