"""Runners that crash, hang or talk: the reason is told, and the device goes on."""

from __future__ import annotations

import pytest

import qpipe
from qpipe_devices import local
from qpipe_devices.agent.failures import count_oom_kills
from small_build import nothing, write_build

LOADS = """
import os, signal, sys, time
from qpipe_agent import wire
source, sink = wire.claim()
wire.read_message(source)
wire.write_message(sink, {"load_ms": 1.0, "runtime_mb": 1.0, "inputs": ["image"], "outputs": ["y"]})
asked = wire.read_message(source)
"""
LOADED = '{"load_ms": 1.5, "runtime_mb": 2, "inputs": ["image"], "outputs": [], "arrays": []}'
UNCOUNTED = "" if count_oom_kills() is not None else " (out of memory?)"
FAILURES = {
    "abort": ("print('about to fail', file=sys.stderr, flush=True); os.abort()",
              "was killed by SIGABRT when asked to run sample 0; its last line: about to fail"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)",
               f"was killed by SIGKILL{UNCOUNTED} when asked to run sample 0"),
    "exit": ("raise SystemExit('no such kernel')",
             "ended with status 1 when asked to run sample 0; its last line: no such kernel"),
    "error": ("wire.write_message(sink, {'error': 'bad\\nshape'})", "could not run sample 0: bad shape"),
}  # fmt: skip


@pytest.fixture
def board(tmp_path):
    device = local("board", folder=tmp_path / "board")
    yield device
    device.close()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_runner_that_fails_is_told_in_one_line(board, tmp_path, samples, failure):
    code, expected = FAILURES[failure]
    build = write_build(tmp_path / "build", "run_mine.py", {"run_mine.py": LOADS + code})
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError) as error:
        list(board.infer(*places, 3))
    assert str(error.value) == f"board: runner run_mine.py {expected}"


def test_the_device_goes_on_after_a_crash(tmp_path, build, samples):
    device = local("board", folder=tmp_path / "board")
    broken = write_build(
        tmp_path / "build", "run_mine.py", {"run_mine.py": "import os; os.abort()"}
    )
    images = device.store(samples.folder, nothing)
    with pytest.raises(
        qpipe.DeviceError, match=r"was killed by SIGABRT when asked to load model\.onnx"
    ):
        list(device.infer(device.store(broken.folder, nothing), images, 1))
    assert len(list(device.infer(device.store(build.folder, nothing), images, 1))) == 1
    device.close()


def test_what_a_runner_prints_does_not_disturb_it(board, tmp_path, samples):
    code = "print('hello' * 100); os.write(1, b'{}\\n'); wire.write_message(sink, {}, {'y': asked.arrays['image']})"
    build = write_build(tmp_path / "build", "run_mine.py", {"run_mine.py": LOADS + code})
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    (outputs,) = board.infer(*places, 1)
    assert outputs["y"].tobytes() == samples.feeds(0, ["image"])["image"].tobytes()


def test_a_model_that_does_not_load_gives_the_words_of_the_runtime(tmp_path, samples):
    device = local("board", folder=tmp_path / "board")
    build = write_build(tmp_path / "build")
    (build.folder / "model.onnx").write_bytes(b"not a model")
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: runner run_onnxruntime.py could not load model.onnx: \S.*",
    ):
        device.round(*places, warmup_s=0, values=1, budget_s=1)
    device.close()


def test_an_unknown_runner_is_named(board, tmp_path, samples):
    build = write_build(tmp_path / "build", "run_nothing.py")
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError) as error:
        list(board.infer(*places, 1))
    assert str(error.value) == (
        "board: runner 'run_nothing.py' does not exist; it must be a file of the build or run_onnxruntime.py"
    )


def test_an_executable_in_any_language_can_be_a_runner(board, tmp_path, samples):
    timed = (
        '{"first_ms": 3, "warmups": 4, "values_ns": [1000000, 2000000], "peak_mb": 5, "arrays": []}'
    )
    script = (
        f"#!/bin/sh\nread request\necho '{LOADED}'\nread request\necho '{timed}'\ncat > /dev/null\n"
    )
    build = write_build(tmp_path / "build", "runner", {"runner": script})
    places = board.store(build.folder, nothing), board.store(samples.folder, nothing)
    taken = board.round(*places, warmup_s=0, values=2, budget_s=1)
    assert taken == qpipe.Round(
        [1.0, 2.0], load_ms=1.5, first_ms=3, warmups=4, peak_mb=5, runtime_mb=2
    )


def test_a_hang_costs_no_more_than_its_deadline(tmp_path, samples):
    device = local("board", folder=tmp_path / "board", deadline_s=2)
    script = f"#!/bin/sh\nread request\necho '{LOADED}'\nread request\nsleep 600\n"
    build = write_build(tmp_path / "build", "runner", {"runner": script})
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: runner runner gave no answer within 2 s when asked to run",
    ):
        list(device.infer(*places, 1))
    with pytest.raises(
        qpipe.DeviceError, match=r"gave no answer within 2\.1 s when asked to time model.onnx$"
    ):
        device.round(*places, warmup_s=0, values=2, budget_s=0.1)
    device.close()
