"""A tiny int8 network whose outputs on a device must equal those on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qpipe.errors import DeviceError
from qpipe.samples.store import Samples
from qpipe.types import Array, Build, Device, Finding, Preprocessing, Sample

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SIZE = 8  # height and width
CHANNELS = 3
FILTERS = 4
SAMPLE_COUNT = 4
OUTPUT_SCALE = 0.125  # one quantization step of the outputs
INPUT_SHAPE = (CHANNELS, SIZE, SIZE)
OUTPUT_SHAPE = (FILTERS, SIZE, SIZE)
# old enough for every runtime that loads weights quantized per channel
OPSET = 13
IR_VERSION = 7


def prove(device: Device) -> Finding:
    """Run the network on a device and on this machine, and compare the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        build = _write_build(Path(folder) / "build")
        samples = _write_samples(Path(folder) / "samples")
        stored_build = device.store(build.folder, no_progress)
        stored_samples = device.store(samples.folder, no_progress)
        device_outputs = [
            outputs["y"] for outputs in device.infer(stored_build, stored_samples, SAMPLE_COUNT)
        ]
        host_outputs = _infer_on_host(build.folder / "model.onnx", samples)
    return compare_outputs(
        device.name, on_device=np.stack(device_outputs), on_host=np.stack(host_outputs)
    )


def compare_outputs(device_name: str, *, on_device: Array, on_host: Array) -> Finding:
    """Return how many outputs differ.

    Raise DeviceError where one differs by more than one quantization step.
    """
    difference_steps = np.abs(on_device.astype(np.float64) - on_host) / OUTPUT_SCALE
    differing = int((difference_steps > 0).sum())
    largest_steps = float(difference_steps.max())
    if not largest_steps <= 1:  # which NaN is not either
        raise DeviceError(
            f"{device_name}: a tiny int8 network has other outputs there than on this machine, "
            f"by up to {largest_steps:g} quantization steps; "
            "do not measure on it; give another version by --runtime",
            failure="wrong answer",
        )
    if differing:
        result = (
            f"{differing} of {on_host.size} outputs differ from the host's, "
            "by one quantization step"
        )
    else:
        result = f"all {on_host.size} outputs equal the host's"
    facts = {
        "values": int(on_host.size),
        "differ": differing,
        "largest_steps": largest_steps,
    }
    return Finding("proof", "ok", f"a tiny int8 network: {result}", facts)


def no_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Report no progress: the transfers are short."""


def _infer_on_host(model: Path, samples: Samples) -> list[Array]:
    import onnx_ir as ir

    from qpipe.quant.inference import inferences, open_session

    session = open_session(ir.load(model))
    return [outputs["y"] for outputs in inferences(session, samples, SAMPLE_COUNT)]


def _write_samples(folder: Path) -> Samples:
    folder.mkdir()
    return Samples.write(folder, _random_samples(), {"x": Preprocessing()})


def _random_samples() -> Iterator[Sample]:
    random = np.random.default_rng(0)
    for index in range(SAMPLE_COUNT):
        values = random.normal(0, 1, INPUT_SHAPE).astype(np.float32)
        yield Sample(str(index), {"x": values})


def _write_build(folder: Path) -> Build:
    import onnx

    folder.mkdir()
    onnx.save(_network(), folder / "model.onnx")
    manifest: dict[str, Any] = {
        "runtime": "onnxruntime",
        "runner": "run_onnxruntime.py",
        "model": "model.onnx",
        "options": {"session": {"intra_op_num_threads": 1}},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, *INPUT_SHAPE]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, *OUTPUT_SHAPE]}],
    }
    return Build.write(folder, manifest)


def _network() -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        _nodes(),
        "proof",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *INPUT_SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, *OUTPUT_SHAPE])],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _nodes() -> list[NodeProto]:
    """Return QuantizeLinear, Conv, Relu, QuantizeLinear, which fuse into one integer kernel."""
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_float"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_float"], axis=0),
        helper.make_node("Conv", ["x_float", "w_float", "b_float"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sums"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "y_scale", "y_zero"], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y"]),
    ]


def _constants() -> dict[str, Array]:
    """Return the codes, scales and zero points, with weights per channel (axis 0).

    The weights have 7 bits: sums that saturate on some CPUs only would look like a fault.
    """
    random = np.random.default_rng(1)
    weight_scales = np.array([1 / 64, 1 / 48, 1 / 96, 1 / 80], np.float32)
    input_scale = np.array(1 / 32, np.float32)
    return {
        "x_scale": input_scale,
        "x_zero": np.array(128, np.uint8),
        "y_scale": np.array(OUTPUT_SCALE, np.float32),
        "y_zero": np.array(0, np.uint8),
        "w": random.integers(-63, 64, (FILTERS, CHANNELS, 3, 3), np.int8),
        "w_scale": weight_scales,
        "w_zero": np.zeros(FILTERS, np.int8),
        "b": random.integers(-2000, 2000, FILTERS, np.int32),
        "b_scale": weight_scales * input_scale,
        "b_zero": np.zeros(FILTERS, np.int32),
    }
