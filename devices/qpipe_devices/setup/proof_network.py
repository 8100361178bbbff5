"""The proof that a runtime on a device computes: a tiny int8 network, its outputs there and on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.errors import DeviceError
from qpipe.samples.store import Samples
from qpipe.types import Array, Build, Device, Finding, Preprocessing, Sample

SIZE = 8
CHANNELS = 3
FILTERS = 4
SAMPLES = 4
STEP = 0.125  # of the outputs


def prove(device: Device) -> Finding:
    """Run it on both; DeviceError where an output differs by more than one quantization step."""
    with tempfile.TemporaryDirectory() as folder:
        build = _build(Path(folder) / "build")
        samples = _samples(Path(folder) / "samples")
        stored = device.store(build.folder, quietly), device.store(samples.folder, quietly)
        there = [outputs["y"] for outputs in device.infer(*stored, SAMPLES)]
        here = _on_host(build.folder / "model.onnx", samples)
    return compared(device.name, np.stack(there), np.stack(here))


def compared(name: str, there: Array, here: Array) -> Finding:
    steps = np.abs(there.astype(np.float64) - here) / STEP
    differ = int((steps > 0).sum())
    largest = float(steps.max())
    facts = {"values": int(here.size), "differ": differ, "largest_steps": largest}
    if not largest <= 1:
        reason = f"a tiny int8 network gives other outputs there than here, by up to {largest:g} quantization steps"
        fix = "do not measure on it; give another version by --runtime"
        raise DeviceError(f"{name}: {reason}; {fix}", failure="wrong answer")
    if differ:
        said = f"a tiny int8 network: {differ} of {here.size} outputs differ from the host's, by one quantization step"
    else:
        said = f"a tiny int8 network: all {here.size} outputs equal the host's"
    return Finding("proof", "ok", said, facts)


def _on_host(model: Path, samples: Samples) -> list[Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(["y"], {"x": samples[i].inputs["x"][None]})[0] for i in range(SAMPLES)]


def _samples(folder: Path) -> Samples:
    folder.mkdir()
    random = np.random.default_rng(0)
    inputs = (
        {"x": random.normal(0, 1, (CHANNELS, SIZE, SIZE)).astype(np.float32)}
        for _ in range(SAMPLES)
    )
    samples = (Sample(str(index), each) for index, each in enumerate(inputs))
    return Samples.write(folder, samples, {"x": Preprocessing()})


def _build(folder: Path) -> Build:
    """Its weights are of 7 bits: sums that saturate on one CPU and not on another would look like a fault."""
    import onnx

    folder.mkdir()
    onnx.save(_network(), folder / "model.onnx")
    manifest: dict[str, Any] = {
        "runtime": "onnxruntime",
        "runner": "run_onnxruntime.py",
        "model": "model.onnx",
        "options": {"session": {"intra_op_num_threads": 1}},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, CHANNELS, SIZE, SIZE]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, FILTERS, SIZE, SIZE]}],
    }
    return Build.write(folder, manifest)


def _network() -> Any:
    """QuantizeLinear, Conv with weights per channel, Relu, QuantizeLinear: what fuses to one integer kernel."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    weight_scales = np.array([1 / 64, 1 / 48, 1 / 96, 1 / 80], np.float32)
    input_scale = np.array(1 / 32, np.float32)
    values: dict[str, Array] = {
        "xs": input_scale,
        "xz": np.array(128, np.uint8),
        "ys": np.array(STEP, np.float32),
        "yz": np.array(0, np.uint8),
        "w": random.integers(-63, 64, (FILTERS, CHANNELS, 3, 3), np.int8),
        "ws": weight_scales,
        "wz": np.zeros(FILTERS, np.int8),
        "b": random.integers(-2000, 2000, FILTERS, np.int32),
        "bs": weight_scales * input_scale,
        "bz": np.zeros(FILTERS, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "proof",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, FILTERS, SIZE, SIZE])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    # old enough for any runtime that loads quantized weights per channel
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def quietly(done: float, total: float | None = None, unit: str = "") -> None:
    """Nobody waits for a few kilobytes."""
