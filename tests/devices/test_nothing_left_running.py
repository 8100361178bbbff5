"""Whatever becomes of the host, the agent and its runner end, and the board is free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from processes import DEAF, running

import qpipe
from qpipe_devices import local, ssh
from small_build import nothing, write_build
from waiting import ended_at_last, wait_until

HOST = """
import sys
from pathlib import Path
import qpipe
from qpipe_devices import local, ssh
folder, kind, silence = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if kind == "local":
    device = local("board", folder=folder / "board")
    device.silence_s = silence
else:
    host, port, user, key, known = sys.argv[4:]
    device = ssh("board", host=host, port=int(port), user=user, key=Path(key), known_hosts=Path(known),
                 python=sys.executable, folder=str(folder / "board"), lock=str(folder / "lock"), silence_s=silence)
quiet = lambda done, total=None, unit="": None
build, samples = device.store(folder / "build", quiet), device.store(Path(folder / "samples"), quiet)
print("ready", flush=True)
list(device.infer(build, samples, 1))
"""


@pytest.fixture
def start_host(sshd, samples, tmp_path) -> Iterator:
    """A host process that waits for an inference that never ends; what runs for it is known by tmp_path/board."""
    write_build(tmp_path / "build", "run_deaf.py", {"run_deaf.py": DEAF})
    (tmp_path / "samples").symlink_to(samples.folder)
    script = tmp_path / "host.py"
    script.write_text(HOST, encoding="utf-8")

    def start(kind: str, silence: float = 600) -> subprocess.Popen:
        server = (
            [sshd.host, str(sshd.port), sshd.user, str(sshd.key), str(sshd.known_hosts)]
            if kind == "ssh"
            else []
        )
        command = [sys.executable, script, tmp_path, kind, str(silence), *server]
        host = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
        hosts.enter_context(ended_at_last(host))
        assert host.stdout.readline() == b"ready\n"
        assert wait_until(
            lambda: len(running(tmp_path / "board")) >= 3
        )  # agent, runner, the runner's child
        return host

    with ExitStack() as hosts:
        yield start
    for process in running(tmp_path / "board"):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_killing_the_host_leaves_nothing_running(start_host, kind, tmp_path):
    """It is noticed at once, and not because the host has been silent for too long."""
    host = start_host(kind)
    host.kill()
    assert wait_until(lambda: not running(tmp_path / "board"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_host_that_falls_silent_loses_the_board(start_host, tmp_path):
    host = start_host("ssh", silence=3.0)
    host.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: not running(tmp_path / "board"))


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_an_agent_that_is_killed_is_a_lost_connection_and_the_next_call_starts_another(
    kind, sshd, tmp_path, request
):
    folder = tmp_path / "board"
    device = (
        local("board", folder=folder) if kind == "local" else ssh("board", **sshd.options(folder))
    )
    device.capabilities()
    for process in running(folder):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: the connection was lost; run again to continue$"
    ):
        device.capabilities()
    assert device.capabilities().cores > 0
    device.close()
    assert wait_until(lambda: not running(folder))


def test_an_agent_that_falls_silent_is_a_lost_connection(tmp_path):
    device = local("board", folder=tmp_path / "board")
    device.capabilities()
    (agent,) = running(tmp_path / "board")
    device._conversation.silence_s = 1.0
    os.kill(agent, signal.SIGSTOP)
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: no message came for 1 s; run again to continue$"
    ):
        device.capabilities()
    device.close()
    assert wait_until(lambda: not running(tmp_path / "board"))


def test_who_takes_long_over_an_answer_is_not_taken_for_dead(tmp_path, build, samples):
    device = local("board", folder=tmp_path / "board")
    device.silence_s = 2.0
    outputs = device.infer(
        device.store(build.folder, nothing), device.store(samples.folder, nothing), 40
    )
    next(outputs)
    time.sleep(2.5)  # longer than either side may be silent
    assert len(list(outputs)) == 39
    device.close()


def test_a_connection_cut_in_the_middle_says_so(sshd, tmp_path, samples):
    device = ssh("board", **sshd.options(tmp_path / "board"))
    device.patience_s = 0
    build = write_build(tmp_path / "build", "run_deaf.py", {"run_deaf.py": DEAF})
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    outputs = device.infer(*places, 1)
    device.transport.transport.sock.shutdown(2)
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: the connection was lost; run again to continue$"
    ):
        next(outputs)
    assert wait_until(lambda: not running(tmp_path / "board"))
    device.close()
