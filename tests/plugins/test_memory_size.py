"""Memory and size of a build, on this machine's device."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qpipe
from qpipe_devices import local
from qpipe_plugins.deploy.copy import copy
from qpipe_plugins.measure.memory import memory
from qpipe_plugins.measure.size import size
from small_build import nothing, write_build

MB = 10**6
# each process needs the memory that the next word of a file says
PLAYER = """
import json, sys
from pathlib import Path
def answer(**fields):
    sys.stdin.buffer.readline()
    print(json.dumps({**fields, "arrays": []}), flush=True)
first, *others = Path("peaks").read_text().split()
Path("peaks").write_text(" ".join(others))
answer(load_ms=1, runtime_mb=1, inputs=["image"], outputs=[])
answer(first_ms=1, warmups=1, values_ns=[1], peak_mb=int(first))
sys.stdin.read()
"""


def add_weight(build: qpipe.Build, megabytes: int) -> None:
    """Add a weight of that size to the small model, to an output of its own."""
    model = onnx.load(build.folder / "model.onnx")
    weight = np.ones(megabytes * MB // 4, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    model.graph.node.append(helper.make_node("Mul", ["weight", "mean"], ["large"]))
    model.graph.output.append(helper.make_tensor_value_info("large", 1, [1, 3, 1, len(weight)]))
    onnx.save(model, build.folder / "model.onnx")


@pytest.fixture
def board(tmp_path):
    device = local("board", folder=tmp_path / "board")
    yield device
    device.close()


def test_size_is_all_that_travels(board, tmp_path):
    build = write_build(tmp_path / "build")
    (measured,) = size(qpipe.Deployed("net/int8/ort", build, copy(build, board, nothing)))
    expected = sum(path.stat().st_size for path in build.folder.iterdir()) / MB
    assert (measured.metric, measured.value, measured.unit) == ("size_mb", expected, "MB")
    assert measured.deployed == "net/int8/ort"


def test_memory_grows_by_what_the_model_holds_and_gives(board, tmp_path):
    pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
    how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
    samples = board.store(
        qpipe.Samples.write(tmp_path / "s", [qpipe.Sample("0", pixels)], how).folder, nothing
    )
    found = []
    for name, megabytes in (("small", 0), ("large", 20)):
        build = write_build(tmp_path / name)
        if megabytes:
            add_weight(build, megabytes)
        deployed = qpipe.Deployed(name, build, copy(build, board, nothing))
        found.append(
            {each.metric: each for each in memory(deployed, board, samples, nothing, rounds=2)}
        )
    small, large = found
    assert small["memory_mb"].value > small["memory_above_runtime_mb"].value > 0
    # the weight, and three times as much of output
    assert large["memory_above_runtime_mb"].value - small["memory_above_runtime_mb"].value > 4 * 20
    assert large["memory_mb"].n == len(large["memory_mb"].rounds) == 2


def test_memory_is_asked_for_at_the_batch_that_is_measured(board, tmp_path):
    pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
    how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
    samples = board.store(
        qpipe.Samples.write(tmp_path / "s", [qpipe.Sample("0", pixels)], how).folder, nothing
    )
    build = write_build(tmp_path / "build")
    deployed = qpipe.Deployed("net/int8/ort", build, copy(build, board, nothing))
    expected = r"batch 8: the batch axis of image is 1 in this build; compile it with onnxruntime: {dynamic_batch: true}"
    with pytest.raises(qpipe.DeviceError, match=expected):
        memory(deployed, board, samples, nothing, batch=8)


def test_a_median_lies_in_its_interval_where_some_processes_need_more(board, tmp_path):
    pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
    how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
    samples = board.store(
        qpipe.Samples.write(tmp_path / "s", [qpipe.Sample("0", pixels)], how).folder, nothing
    )
    build = write_build(
        tmp_path / "build",
        "run_player.py",
        {"run_player.py": PLAYER, "peaks": "10 " * 7 + "20 " * 6},
    )
    deployed = qpipe.Deployed("net/int8/ort", build, copy(build, board, nothing))
    peak, above = memory(deployed, board, samples, nothing, rounds=13)
    assert (peak.value, above.value) == (10, 9)
    for each in (peak, above):
        assert each.low <= each.value <= each.high
