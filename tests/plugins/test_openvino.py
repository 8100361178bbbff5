"""Builds for OpenVINO: the same network, run by its own runner on the same device."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import yaml
from onnx.reference import ReferenceEvaluator

import qpipe
from models import conv_net, images, run, statistics_of
from processors import KINDS, SATURATING, emulated, machine_kind, run_emulated
from qpipe.quant.statistics import Statistics
from qpipe.types import Platform, Target
from qpipe_devices import local
from qpipe_plugins.compile import run_openvino
from qpipe_plugins.compile.openvino import openvino
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric
from small_build import nothing, write_build

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("openvino")

ROOT = Path(__file__).parents[2]
QPIPE = Path(sys.executable).parent / "qpipe"


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(16))


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    device = local("board", folder=tmp_path_factory.mktemp("board"))
    yield device
    device.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    arrays = (qpipe.Sample(str(i), {"image": array[0]}) for i, array in enumerate(images(6)))
    return qpipe.Samples.write(
        tmp_path_factory.mktemp("samples"), arrays, {"image": qpipe.Preprocessing()}
    )


def infer(board, build, samples, count=6):
    stored = board.store(build.folder, nothing)
    return list(board.infer(stored, board.store(samples.folder, nothing), count))


def test_a_float_network_gives_what_the_operators_mean(board, samples, tmp_path):
    build = openvino(conv_net(), Platform("openvino"), tmp_path / "build")
    expected = ReferenceEvaluator(str(build.folder / "model.onnx"))
    for index, outputs in enumerate(infer(board, build, samples)):
        (logits,) = expected.run(None, samples.feeds(index, ["image"]))
        np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-5)


def int8(model: ir.Model, statistics: Statistics, target: Target) -> ir.Model:
    return symmetric(model, statistics, target)


def int4(model: ir.Model, statistics: Statistics, target: Target) -> ir.Model:
    return symmetric(model, statistics, target, bits=4)


def log4(model: ir.Model, statistics: Statistics, target: Target) -> ir.Model:
    return logarithmic(model, statistics, target, bits=4)


QUANTIZERS = (int8, int4, log4)
# OpenVINO saturates too, and has no way around it: 8 bits are right where the machine is exact
KINDS_HERE = [kind for kind in KINDS if kind in (SATURATING, machine_kind())]


@pytest.mark.parametrize("kind", KINDS_HERE, ids=str)
@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("max_opset", [21, 28])
def test_quantized_networks_give_the_same_to_a_step_or_two_of_the_output(
    quantize, max_opset, kind, statistics, board, samples, tmp_path
):
    model = quantize(conv_net(21), statistics, kind.target)
    plain = run(model, images(6))
    step = np.ptp([each["logits"] for each in plain]) / 255
    build = openvino(
        model, Platform("openvino", max_opset=max_opset, max_ir_version=14), tmp_path / "build"
    )
    for one, other in zip(infer(board, build, samples), plain, strict=True):
        np.testing.assert_allclose(one["logits"], other["logits"], atol=3 * step)


ON_OLD_CPU = """
import json, pathlib, sys
import numpy, openvino
folder = pathlib.Path(sys.argv[1])
for build in sorted(folder.glob("*/build.json")):
    properties = json.loads(build.read_text())["options"]["properties"]
    compiled = openvino.Core().compile_model(build.parent / "model.onnx", "CPU", properties)
    outputs = [compiled(image)["logits"] for image in numpy.load(folder / "images.npy")]
    numpy.save(build.parent / "outputs.npy", outputs)
"""


@emulated
@pytest.mark.slow
def test_an_emulated_processor_that_saturates_gives_the_same(statistics, tmp_path):
    expected = {}
    for quantize in QUANTIZERS:
        model = quantize(conv_net(21), statistics, SATURATING.target)
        expected[quantize.__name__] = np.stack([one["logits"] for one in run(model, images(6))])
        openvino(model, Platform("openvino"), tmp_path / quantize.__name__)
    np.save(tmp_path / "images.npy", np.stack(images(6)))
    run_emulated(SATURATING.emulated_cpu, ON_OLD_CPU, str(tmp_path))
    for name, plain in expected.items():
        outputs = np.load(tmp_path / name / "outputs.npy")
        np.testing.assert_allclose(outputs, plain, atol=3 * np.ptp(plain) / 255)


def test_it_is_timed_as_onnxruntime_is(board, samples, tmp_path):
    build = openvino(conv_net(), Platform("openvino"), tmp_path / "build")
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    taken = board.round(*places, warmup_s=0.05, values=7, budget_s=5)
    assert len(taken.values_ms) == 7
    assert all(0 < value < 1000 for value in taken.values_ms)
    assert taken.warmups >= 3
    assert taken.load_ms > 0
    assert 10 < taken.runtime_mb < taken.peak_mb < 2000


def test_a_round_may_ask_for_threads(board, samples, tmp_path):
    build = openvino(conv_net(), Platform("openvino"), tmp_path / "build")
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    asked = {"warmup_s": 0.01, "values": 2, "budget_s": 5}
    assert len(board.round(*places, **asked, options={"threads": 2}).values_ms) == 2


def test_the_build_says_how_it_is_opened(tmp_path):
    build = openvino(
        conv_net(),
        Platform("openvino"),
        tmp_path,
        threads=2,
        properties={"ENABLE_CPU_PINNING": False},
    )
    assert [path.name for path in build.files] == ["build.json", "model.onnx", "run_openvino.py"]
    assert build.manifest["options"] == {
        "device": "CPU",
        "properties": {
            "INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        },
    }  # fmt: skip


def test_outputs_have_the_names_that_they_have_in_the_network(board, tmp_path, samples):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3, 16, 16] image) => (float[1, 3, 16, 16] twin, float[1, 3, 16, 16] positive)
    { positive = Relu (image) twin = Identity (positive) }"""
    (outputs,) = infer(
        board, openvino(ir.from_onnx_text(text), Platform("openvino"), tmp_path), samples, 1
    )
    expected = np.maximum(samples.feeds(0, ["image"])["image"], 0)
    assert list(outputs) == ["twin", "positive"]
    for array in outputs.values():
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"properties": {"WARP_SPEED": 9}},
            "NotFound: Unsupported property WARP_SPEED by CPU plugin.",
        ),
        ({"device": "TPU"}, 'Device with "TPU" name is not registered in the OpenVINO Runtime'),
    ],
)
def test_what_openvino_refuses_is_told_in_one_line(change, reason, board, samples, tmp_path):
    build = openvino(conv_net(), Platform("openvino"), tmp_path / "build")
    options = {**build.manifest["options"], **change}
    qpipe.Build.write(build.folder, {**build.manifest, "options": options})
    with pytest.raises(qpipe.DeviceError) as error:
        infer(board, build, samples)
    assert str(error.value) == f"board: runner run_openvino.py could not load model.onnx: {reason}"


def test_a_runtime_that_is_not_installed_there_is_named_with_the_command(board, samples, tmp_path):
    text = 'from qpipe_agent import serving\nserving.serve("a_runtime_of_nobody", dict)\n'
    build = write_build(tmp_path / "build", "run_it.py", {"run_it.py": text})
    with pytest.raises(qpipe.DeviceError) as error:
        infer(board, build, samples)
    assert str(error.value).endswith(
        "could not load model.onnx: a_runtime_of_nobody cannot be imported (No module named 'a_runtime_of_nobody'); "
        f"install it there: {sys.executable} -m pip install a_runtime_of_nobody"
    )


def test_the_runner_is_python_3_8_and_needs_nothing_but_openvino():
    tree = ast.parse(
        Path(run_openvino.__file__).read_text(encoding="utf-8"), feature_version=(3, 8)
    )
    plain = [
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    ]
    taken = [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {*plain, *taken} - set(sys.stdlib_module_names) == {"numpy", "openvino", "qpipe_agent"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """The rows of a recipe on both runtimes, by scheme and build."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = {
        "name": "two_runtimes",
        "samples": {"scenes": {"calibration_count": 8, "evaluation_count": 8}},
        "models": {"ssd": {"onnx": {"path": str(ROOT / "recipes" / "models" / "mobilenet_ssd.onnx")}}},
        "calibrate": "histogram",
        "schemes": {"float32": [], "int8": ["symmetric"]},
        "builds": {"ort": "onnxruntime", "ov": "openvino"},
        "measure": [
            {"latency": {"rounds": 2, "values": 5, "warmup_s": 0.1}}, "size", "placement",
            {"accuracy": {"postprocess": "ssd_boxes", "metric": "coco_map"}},
        ],
        "devices": ["local"],
        "pareto": {"latency_ms": "min", "map50": "max", "size_mb": "min"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    (folder / "devices.yaml").write_text(
        f"local: {{local: {{folder: {folder}/board}}}}", encoding="utf-8"
    )
    argv = [QPIPE, "run", "recipe.yaml", "--json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return {(row["scheme"], row["build"]): row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.slow
def test_both_runtimes_stand_on_one_front_with_numbers_of_their_own(rows):
    assert set(rows) == {
        (scheme, build) for scheme in ("float32", "int8") for build in ("ort", "ov")
    }
    metrics = {
        "latency_ms",
        "latency_ratio",
        "size_mb",
        "map50",
        "agreement",
        "sqnr_db",
        "int8_nodes",
    }
    for (scheme, build), row in rows.items():
        assert row["runtime"] == {"ort": "onnxruntime", "ov": "openvino"}[build]
        assert metrics - ({"latency_ratio"} if scheme == "float32" else set()) <= set(
            row["metrics"]
        )
    latencies = {row["metrics"]["latency_ms"]["value"] for row in rows.values()}
    assert len(latencies) == 4


@pytest.mark.slow
def test_both_runtimes_agree(rows):
    for scheme in ("float32", "int8"):
        ort, ov = (rows[scheme, build]["metrics"] for build in ("ort", "ov"))
        assert abs(ort["map50"]["value"] - ov["map50"]["value"]) < 0.1
        assert min(ort["agreement"]["value"], ov["agreement"]["value"]) > 0.7
    assert rows["float32", "ov"]["metrics"]["agreement"]["value"] > 0.99
