"""Which kind of failure it was: what the engine decides by whether to try again."""

from __future__ import annotations

import errno

import pytest

import qpipe
from qpipe_devices import local
from qpipe_devices.agent import failures
from small_build import nothing, write_build

LOADS = """
import os, signal, sys, time
from qpipe_agent import wire
source, sink = wire.claim()
wire.read_message(source)
wire.write_message(sink, {"load_ms": 1.0, "runtime_mb": 1.0, "inputs": ["image"], "outputs": ["y"]})
asked = wire.read_message(source)
"""
SERVES = """
import sys
from qpipe_agent import serving
class Loaded:
    inputs, outputs = ["image"], ["y"]
    def infer(self, feeds):
        WHAT
serving.serve("RUNTIME", lambda request: Loaded())
"""


def serves(what: str, runtime: str = "numpy") -> str:
    return SERVES.replace("WHAT", what).replace("RUNTIME", runtime)


KILLED = (
    "died" if failures.count_oom_kills() is not None else "out of memory"
)  # nobody counts: it is the likelier one
CASES = {
    "a crash": (LOADS + "os.abort()", "build"),
    "killed by somebody": (LOADS + "os.kill(os.getpid(), signal.SIGKILL)", KILLED),
    "asked to end by somebody": (LOADS + "os.kill(os.getpid(), signal.SIGTERM)", "died"),
    "a status": (LOADS + "sys.exit('no such kernel')", "build"),
    "no memory, in C++": (LOADS + "print('what():  std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
                          "out of memory"),
    "no memory, in Python": (LOADS + "raise MemoryError", "out of memory"),
    "no memory, in OpenBLAS": (LOADS + "sys.exit('OpenBLAS error: Memory allocation still failed after 10 retries')",
                               "out of memory"),
    "no memory, in numpy": (serves("import numpy; numpy.zeros(1 << 60, 'u1')"), "out of memory"),
    "an error of the runtime": (serves("raise RuntimeError('bad shape')"), "build"),
    "no room": (serves("import errno; raise OSError(errno.ENOSPC, 'No space left on device')"), "no room"),
    "no runtime": (serves("pass", "tensorflow_of_mars"), "configuration"),
    "a hang": (LOADS + "time.sleep(600)", "build"),
    "nonsense": (LOADS + "sink.write(b'hello\\n'); sink.flush(); time.sleep(600)", "wrong answer"),
    "other outputs": (LOADS + "wire.write_message(sink, {}, {}); wire.read_message(source)", "wrong answer"),
    "a failure of its own naming": (LOADS + "wire.write_message(sink, {'error': 'hot', 'failure': 'throttled'})", "throttled"),
    "a failure that is none": (LOADS + "wire.write_message(sink, {'error': 'hot', 'failure': 'sunspots'})", "bug"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_failure_of_a_runner_has_its_kind_and_the_device_goes_on(case, tmp_path, build, samples):
    code, expected = CASES[case]
    device = local("board", folder=tmp_path / "board", deadline_s=2 if case == "a hang" else 60)
    broken = write_build(tmp_path / "build", "run_mine.py", {"run_mine.py": code})
    images = device.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError) as error:
        list(device.infer(device.store(broken.folder, nothing), images, 1))
    assert error.value.failure == expected, str(error.value)
    assert device.capabilities().cores > 0
    device.close()


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room"),
        (OSError(errno.EROFS, "Read-only file system"), "configuration"),
        (OSError(errno.EIO, "Input/output error"), "died"),
        (
            ValueError("Failed to allocate memory for requested buffer of size 8589934592"),
            "out of memory",
        ),
    ],
    ids=str,
)
def test_what_the_system_says_has_its_kind(error, failure):
    assert failures.failure_of(error) == failure


def test_a_full_disk_where_the_agent_goes_is_no_room(tmp_path):
    python = tmp_path / "python3"
    last = "OSError: [Errno 28] No space left on device: '/home/pi/.qpipe/agent'"
    python.write_text(f'#!/bin/sh\necho "{last}" >&2\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    device = local("board", python=str(python), folder=tmp_path / "board")
    with pytest.raises(qpipe.DeviceError, match=r"No space left .*; free some there$") as error:
        device.capabilities()
    assert error.value.failure == "no room"


def test_a_python_without_numpy_is_a_matter_of_configuration(tmp_path):
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\necho "numpy cannot be imported: none" >&2\nexit 1\n', encoding="utf-8"
    )
    python.chmod(0o755)
    device = local("board", python=str(python), folder=tmp_path / "board")
    with pytest.raises(qpipe.DeviceError, match=r"; set python to one that has numpy$") as error:
        device.capabilities()
    assert error.value.failure == "configuration"
