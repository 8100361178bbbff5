"""Runners written from PROTOCOL.md alone, for a runtime that somebody brings: qpipe drives them as its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qpipe
from qpipe_devices import local
from qpipe_devices.agent import wire
from small_build import nothing, write_build

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("runner from document")

DOCUMENT = (Path(wire.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
QPIPE = Path(sys.executable).parent / "qpipe"
# the standard library, numpy and the runtime it is for: nothing of qpipe, and not a Python file by its name
RUNNER = """#!{python}
import json, os, resource, statistics, sys, time

messages = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
print("what is printed goes to the log")
import numpy as np
from onnx.reference import ReferenceEvaluator


def read():
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit()
    fields = json.loads(line)
    arrays = {{}}
    for name, dtype, shape, size in fields["arrays"]:
        arrays[name] = np.frombuffer(sys.stdin.buffer.read(size), dtype).reshape(shape)
    return fields, arrays


def write(fields, arrays=()):
    arrays = [(name, array.astype(array.dtype.newbyteorder("<"))) for name, array in arrays]
    announced = [[name, array.dtype.str, array.shape, array.nbytes] for name, array in arrays]
    messages.write(json.dumps(dict(fields, arrays=announced)).encode() + b"\\n")
    for _, array in arrays:
        messages.write(array.tobytes())
    messages.flush()


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


runtime_mb = resident()
while True:
    asked, arrays = read()
    if asked["do"] == "load":
        start = time.monotonic()
        model = ReferenceEvaluator(os.path.join(asked["build"], asked["model"]))
        took = 1e3 * (time.monotonic() - start)
        assert asked["options"] == {{"colour": "blue"}}, asked["options"]
        write({{"load_ms": took, "runtime_mb": runtime_mb, "inputs": model.input_names, "outputs": model.output_names,
               "id": "a field of its own"}})
    elif asked["do"] == "run":
        write({{}}, zip(model.output_names, model.run(None, arrays)))
    elif asked["do"] == "time":
        def once():
            start = time.monotonic_ns()
            model.run(None, arrays)
            return time.monotonic_ns() - start
        first, start = once(), time.monotonic()
        warm = [once()]
        while time.monotonic() - start < asked["warmup_s"]:
            warm.append(once())
        values = [once() for _ in range(asked["values"])]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        write({{"first_ms": first / 1e6, "warmups": len(warm), "values_ns": values, "peak_mb": peak}})
    elif asked["do"] == "placement":
        write({{"nodes": {{"numpy": {{"float32": 2, "other": 1}}}}, "float_nodes": ["mean", "soft"]}})
    else:
        write({{"error": "what is " + asked["do"] + "?"}})
"""
PLUGIN = '''"""A runtime of somebody else, and something to run on it."""
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

import qpipe

RUNNER = {runner!r}
MODEL = {model!r}

def pixels() -> qpipe.Dataset:
    """Random pixels."""
    random = np.random.default_rng(0)
    images = [qpipe.Sample(str(i), {{"pixels": random.integers(0, 256, (8, 8, 3), np.uint8)}}) for i in range(6)]
    return qpipe.Dataset(images[:2], images[2:], {{"pixels": qpipe.Preprocessing(layout="NCHW")}})

def small() -> ir.Model:
    """A small network."""
    return ir.from_onnx_text(MODEL)

def reference(model: ir.Model, workdir: Path, *, colour: str = "blue") -> qpipe.Build:
    """A build for the reference evaluator."""
    workdir.mkdir(parents=True, exist_ok=True)
    ir.save(model, workdir / "small.onnx")
    (workdir / "evaluate").write_text(RUNNER)
    options = {{"colour": colour}}
    manifest = {{"runtime": "reference", "runner": "evaluate", "model": "small.onnx", "options": options}}
    return qpipe.Build.write(workdir, manifest)

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", pixels)
    register("import", small)
    register("compile", reference)
'''
RECIPE = """
name: somebody_elses
plugins: [./runtime.py]
samples: pixels
models: {small: small}
schemes: {float32: []}
builds: {theirs: reference, ours: onnxruntime}
measure: [{latency: {rounds: 2, values: 3, warmup_s: 0}}, accuracy, {memory: {rounds: 1, values: 1}}, size, placement]
devices: [local]
pareto: {latency_ms: min, size_mb: min}
"""
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] pixels) => (float[1, 192] flat, float[1, 3, 1, 1] average)
{ [mean] average = GlobalAveragePool (pixels) [soft] s = Softmax <axis = 1> (pixels) [flatten] flat = Flatten (s) }"""


@pytest.fixture
def board(tmp_path):
    device = local("board", folder=tmp_path / "board")
    yield device
    device.close()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows of a recipe whose network runs on somebody else's runtime beside ONNX Runtime."""
    folder = tmp_path_factory.mktemp("recipe")
    plugin = PLUGIN.format(runner=RUNNER.format(python=sys.executable), model=MODEL)
    (folder / "runtime.py").write_text(plugin, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "devices.yaml").write_text(
        f"local: {{local: {{folder: {folder}/board}}}}", encoding="utf-8"
    )
    argv = [QPIPE, "run", "recipe.yaml", "--json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return {row["build"]: row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.lab
def test_a_runner_from_the_document_runs_beside_onnxruntime_in_one_recipe(rows):
    assert {build: row["runtime"] for build, row in rows.items()} == {
        "theirs": "reference",
        "ours": "onnxruntime",
    }
    assert {"latency_ms", "memory_mb", "size_mb", "agreement", "int8_nodes"} <= set(
        rows["theirs"]["metrics"]
    )
    assert rows["theirs"]["metrics"]["agreement"]["value"] == 1
    assert rows["theirs"]["metrics"]["sqnr_db"]["value"] > 100


def test_its_outputs_are_those_of_its_runtime_bit_for_bit(board, samples, tmp_path):
    build = write_build(
        tmp_path / "build", "evaluate", {"evaluate": RUNNER.format(python=sys.executable)}
    )
    qpipe.Build.write(build.folder, {**build.manifest, "options": {"colour": "blue"}})
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    expected = ReferenceEvaluator(onnx.load(build.folder / "model.onnx"))
    for index, outputs in enumerate(board.infer(*places, 3)):
        for name, array in zip(
            ["flat", "mean"], expected.run(None, samples.feeds(index, ["image"])), strict=True
        ):
            np.testing.assert_array_equal(outputs[name], array)
    taken = board.round(*places, warmup_s=0.01, values=4, budget_s=5)
    assert len(taken.values_ms) == 4
    assert 0 < taken.runtime_mb < taken.peak_mb
    assert board.placement(places[0]) == qpipe.Placement(
        {"numpy": {"float32": 2, "other": 1}}, ("mean", "soft")
    )


def test_an_assertion_of_its_own_is_quoted(board, samples, tmp_path):
    build = write_build(
        tmp_path / "build", "evaluate", {"evaluate": RUNNER.format(python=sys.executable)}
    )
    expected = r"ended with status 1 when asked to load model.onnx; its last line: AssertionError: \{'session': "
    with pytest.raises(qpipe.DeviceError, match=expected):
        board.placement(board.store(build.folder, nothing))


def test_the_runner_in_shell_that_the_document_shows_runs(board, samples, tmp_path):
    lines = (
        DOCUMENT.partition("A complete runner in shell")[2]
        .partition("## The agent")[0]
        .splitlines()
    )
    script = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert script.startswith("#!/bin/sh\n")
    build = write_build(tmp_path / "build", "runner", {"runner": script + "\n"})
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    taken = board.round(*places, warmup_s=0, values=1, budget_s=1)
    assert taken == qpipe.Round([1.0], load_ms=5, first_ms=1, warmups=0, peak_mb=2, runtime_mb=2)
    assert board.placement(places[0]) is None  # it answers, and says nothing of it


def test_the_message_that_the_document_shows_is_what_is_sent(tmp_path):
    example = DOCUMENT.partition("## Messages")[2].splitlines()
    (line,) = [line.strip() for line in example if line.startswith("    {")]
    with (tmp_path / "pipe").open("wb") as stream:
        wire.write_message(stream, {"do": "run"}, {"image": np.zeros((1, 3, 192, 192), np.float32)})
    assert (tmp_path / "pipe").read_bytes().startswith(line.encode() + b"\n")


LOADED = '{"load_ms": 1, "runtime_mb": 2, "inputs": ["image"], "outputs": ["y"], "arrays": []}'
WRONG = {
    "it prints before its message": (
        ["echo Loading the model"],
        "gave an answer that is not a message (Loading the model) when asked to load model.onnx",
    ),
    "a number": (["echo 42"], "gave an answer that is not a message (42) when asked to load model.onnx"),
    "an array of no type": (
        ["""echo '{"arrays": [["x", "<q9", [1], 0]]}'"""],
        'gave an answer that is not a message ({"arrays": [["x", "<q9", [1], 0]]}) when asked to load model.onnx',
    ),
    "an answer without all that belongs to it": (
        ["""echo '{"load_ms": 1, "runtime_mb": 2, "outputs": []}'"""],
        "did not load model.onnx as PROTOCOL.md requires: its answer lacks inputs",
    ),
    "a text for a number": (
        [f"echo '{LOADED}'", "head -n 1 > /dev/null", "echo '{\"first_ms\": \"1\"}'"],
        "did not time model.onnx as PROTOCOL.md requires: its answer has first_ms '1'",
    ),
    "no value": (
        [f"echo '{LOADED}'", "head -n 1 > /dev/null",
         """echo '{"first_ms": 1, "warmups": 0, "values_ns": [], "peak_mb": 1}'"""],
        "returned no value when asked to time model.onnx",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_of_a_runner_is_told_in_one_line_and_the_device_goes_on(
    mistake, board, build, samples, tmp_path
):
    lines, expected = WRONG[mistake]
    script = "\n".join(["#!/bin/sh", "read request", *lines, "cat > /dev/null", ""])
    broken = write_build(tmp_path / "build", "runner", {"runner": script})
    images = board.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError) as error:
        board.round(board.store(broken.folder, nothing), images, warmup_s=0, values=1, budget_s=1)
    assert str(error.value) == f"board: runner runner {expected}"
    assert len(list(board.infer(board.store(build.folder, nothing), images, 1))) == 1


def test_outputs_of_other_names_than_it_said_are_told(board, samples, tmp_path):
    script = f"#!/bin/sh\nread request\necho '{LOADED}'\nhead -n 1 > /dev/null\necho '{{}}'\ncat > /dev/null\n"
    build = write_build(tmp_path / "build", "runner", {"runner": script})
    with pytest.raises(qpipe.DeviceError) as error:
        list(
            board.infer(board.store(build.folder, nothing), board.store(samples.folder, nothing), 1)
        )
    assert str(error.value) == "board: runner runner announced the outputs y, it returned nothing"
