"""Builds that take any number of samples at once, and networks that cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import qpipe
from models import images, run, statistics_of
from processors import machine_kind
from qpipe.types import Build, Platform
from qpipe_devices import local
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.measure.latency import latency
from qpipe_plugins.measure.memory import memory
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.symmetric import symmetric
from small_build import nothing

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
# two Reshapes that hold the batch, as exporters write them; a third is of a constant
NET = (
    HEAD
    + """
net (float[1, 3, 16, 16] image) => (float[1, 2, 6] scores, float[1, 4] mean)
<int64[2] rows = {1, 12}, int64[3] parts = {1, 2, 6}, int64[4] whole = {1, 4, 1, 1}, float[4] plain>
{
    added = Reshape (plain, whole)
    maps = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, weight)
    moved = Add (maps, added)
    active = Relu (moved)
    pooled = GlobalAveragePool (active)
    mean = Flatten (pooled)
    wide = MatMul (mean, head)
    flat = Reshape (wide, rows)
    scores = Reshape (flat, parts)
}
"""
)
# the class token of a vision transformer, folded to one sample; what looks at all of a batch; boxes of all samples
BOUND = {
    "token": ("""
net (float[1, 4, 6] x) => (float[1, 5, 6] y) <float[1, 1, 6] token>
{ y = Concat <axis = 1> (token, x) }
""", "Concat 'Concat_y' binds the network to one sample"),
    "mixed": ("""
net (float[1, 6] x) => (float[1, 6] y) { most = ReduceMax (x)  small = Div (x, most)  y = Tanh (small) }
""", "Div 'Div_small' makes the output of a sample depend on other samples"),
    "moved": ("""
net (float[1, 4, 6] x) => (float[4, 6] y) <int64[2] flat = {4, 6}> { z = Relu (x)  y = Reshape (z, flat) }
""", "Reshape 'Reshape_y' binds the network to one sample"),
}  # fmt: skip


def write(folder: Path, text: str) -> ir.Model:
    """The network as import gives it; its constants are random."""
    model = onnx.parser.parse_model(text if text.startswith("<") else HEAD + text)
    random = np.random.default_rng(1)
    shapes = {"weight": (4, 3, 3, 3), "head": (4, 12), "plain": (4,), "token": (1, 1, 6)}
    # sorted: in the order of a set, each process would give the constants other values
    for name in sorted({each for node in model.graph.node for each in node.input} & shapes.keys()):
        present = [each.name for each in model.graph.initializer]
        if name in present:
            del model.graph.initializer[present.index(name)]
        array = random.normal(size=shapes[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "net.onnx")
    return onnx_file(path=folder / "net.onnx")


def compiled(model: ir.Model, folder: Path, **options: bool) -> Build:
    folder.mkdir()
    return onnxruntime(model, Platform(), folder, **options)


def test_a_batch_gives_what_its_samples_give_alone(tmp_path):
    build = compiled(write(tmp_path, NET), tmp_path / "build", dynamic_batch=True)
    assert [each["shape"] for each in build.manifest["inputs"]] == [["batch", 3, 16, 16]]
    assert [each["shape"] for each in build.manifest["outputs"]] == [["batch", 2, 6], ["batch", 4]]
    batch = np.concatenate(images(3))
    session = ort.InferenceSession(build.folder / "model.onnx", providers=["CPUExecutionProvider"])
    float_network = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx"))
    for output, made in zip(
        ["scores", "mean"], session.run(["scores", "mean"], {"image": batch}), strict=True
    ):
        alone = [float_network.run([output], {"image": one})[0] for one in images(3)]
        np.testing.assert_allclose(made, np.concatenate(alone), atol=1e-5)


def test_without_a_batch_the_same_graph_runs_as_in_a_build_that_takes_one(tmp_path):
    model = write(tmp_path, NET)
    statistics = statistics_of(model, images(8))
    ran = []
    for dynamic_batch in (False, True):
        quantized = symmetric(ir.from_proto(ir.to_proto(model)), statistics)
        build = compiled(quantized, tmp_path / str(dynamic_batch), dynamic_batch=dynamic_batch)
        options = ort.SessionOptions()
        for name, size in build.manifest["options"].get("free_dimensions", {}).items():
            options.add_free_dimension_override_by_name(name, size)
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(
            build.folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        ran.append([node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node])
    assert ran[0] == ran[1]
    assert "QLinearConv" in ran[0]


@pytest.mark.parametrize("name", BOUND)
def test_a_network_bound_to_one_sample_is_refused_with_the_node_that_binds_it(name, tmp_path):
    text, blamed = BOUND[name]
    with pytest.raises(qpipe.StageError) as raised:
        compiled(write(tmp_path, text), tmp_path / "build", dynamic_batch=True)
    said = str(raised.value)
    assert said.startswith(f"compile onnxruntime: dynamic_batch: {blamed}")
    assert said.endswith("; leave dynamic_batch out")


def test_an_input_without_a_batch_axis_is_refused(tmp_path):
    text = "net (float[1, 6] x, float[6] shift) => (float[1, 6] y) { y = Add (x, shift) }"
    with pytest.raises(
        qpipe.StageError,
        match=r"input 'shift' has shape \[6\], without a batch axis of 1; leave dynamic_batch",
    ):
        compiled(write(tmp_path, text), tmp_path / "build", dynamic_batch=True)


def test_a_device_measures_the_batch_asked_for(tmp_path):
    model = write(tmp_path, NET)
    # for this machine: where its kernels saturate, 8-bit weights give other sums than unoptimized
    quantized = symmetric(model, statistics_of(model, images(8)), machine_kind().target)
    build = compiled(quantized, tmp_path / "build", dynamic_batch=True)
    pixels = {"image": np.zeros((16, 16, 3), np.uint8)}
    how = {"image": qpipe.Preprocessing(layout="NCHW")}
    samples = qpipe.Samples.write(tmp_path / "samples", [qpipe.Sample("0", pixels)], how)
    device = local("board", folder=tmp_path / "board")
    try:
        deployed = qpipe.Deployed("net/int8/ort", build, device.store(build.folder, nothing))
        stored = device.store(samples.folder, nothing)
        for batch in (1, 4):
            (tmp_path / str(batch)).mkdir()
            given = {"rounds": 2, "values": 5, "warmup_s": 0.02, "batch": batch}
            found = {each.metric: each for each in latency(
                qpipe.Deployments([deployed]), device, {deployed.name: stored}, tmp_path / str(batch), nothing, **given
            )}  # fmt: skip
            assert found["throughput"].value == pytest.approx(
                batch * 1000 / found["latency_ms"].value
            )
        assert memory(deployed, device, stored, nothing, rounds=1, batch=4)
        (outputs,) = device.infer(deployed.stored, stored, 1)
        (expected,) = run(
            ir.load(build.folder / "model.onnx"), [np.zeros((1, 3, 16, 16), np.float32)]
        )
        assert outputs["scores"].shape == (1, 2, 6)
        np.testing.assert_allclose(outputs["scores"], expected["scores"], atol=1e-5)
    finally:
        device.close()
