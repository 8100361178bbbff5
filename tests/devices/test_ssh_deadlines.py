"""Every call ends in time: against a frozen server, one that never answers, and one that answers too slowly; and what
is given up leaves nothing running on the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_nothing_left_running import running, wait_until

import qpipe
from qpipe_devices import ssh
from qpipe_devices.over_ssh import transport as ssh_transport
from qpipe_devices.over_ssh.deadlines import Watch, within

needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def descendants(process: int) -> list[int]:
    said = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    parents = [tuple(map(int, line.split())) for line in said.splitlines()]
    found, left = [], [process]
    while left:
        parent = left.pop()
        children = [own for own, above in parents if above == parent]
        found += children
        left += children
    return found


@contextmanager
def frozen(*processes: int) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@contextmanager
def within_seconds(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture
def server(start_sshd):
    """A server of the test's own, to be frozen."""
    return start_sshd("ed25519")


@pytest.fixture
def device(server, tmp_path):
    device = ssh("rpi4", **server.options(tmp_path / "board"), connect_timeout=1.5)
    device.transport.start(["true"]).wait(10)
    yield device
    device.close()


def failure(call, *arguments: object) -> tuple[str, str]:
    with pytest.raises(qpipe.DeviceError) as error:
        call(*arguments)
    return error.value.failure, str(error.value)


def test_a_server_that_accepts_and_says_nothing(sshd, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        device = ssh("rpi4", **{**sshd.options(tmp_path), "port": port}, connect_timeout=1)
        with within_seconds(3):
            assert failure(device.transport.start, ["true"]) == (
                "unreachable",
                f"rpi4: 127.0.0.1:{port} gave no answer within 1 s; is it on, and is that its address?",
            )


def test_a_server_that_is_frozen_is_not_waited_for(server, tmp_path):
    device = ssh("rpi4", **server.options(tmp_path / "board"), connect_timeout=1)
    with frozen(server.process), within_seconds(3):
        assert failure(device.transport.start, ["true"])[0] == "unreachable"


def test_no_command_is_started_on_a_frozen_board_and_the_next_call_connects_again(server, device):
    with frozen(*descendants(server.process)), within_seconds(3):
        kind, said = failure(device.transport.start, ["true"])
    assert kind == "timeout"
    assert said.endswith("gave no answer within 1.5 s; is the line cut, or the board frozen?")
    assert device.transport.start(["true"]).wait(10) == 0


def test_an_upload_to_a_frozen_board_stops(server, device, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_transport, "STALLED_S", 1.0)
    source = tmp_path / "source"
    source.write_bytes(bytes(50_000_000))
    sessions = descendants(server.process)

    def freeze(done: float, total: float | None = None, unit: str = "") -> None:
        if done < 1e6:
            for process in sessions:
                os.kill(process, signal.SIGSTOP)

    try:
        with within_seconds(5):
            kind, said = failure(device.transport.put, source, str(tmp_path / "there"), freeze)
    finally:
        for process in sessions:
            os.kill(process, signal.SIGCONT)
    assert kind == "timeout"
    assert said.startswith("rpi4: source was not transferred: nothing moved for 1 s; ")


def test_a_download_from_a_board_that_stops_reading_its_disk_stops(device, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_transport, "STALLED_S", 1.0)
    os.mkfifo(tmp_path / "never")
    with within_seconds(5):
        assert failure(device.transport.get, str(tmp_path / "never"), tmp_path / "back")[0] == "timeout"
    assert not running(str(tmp_path / "never"))


def test_a_transfer_that_crawls_stops(device, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_transport, "STALLED_S", 1.0)
    monkeypatch.setattr(ssh_transport, "SLOWEST", 4e6)
    source = tmp_path / "source"
    source.write_bytes(bytes(4_000_000))
    slow = lambda done, total=None, unit="": time.sleep(0.3)  # noqa: E731
    with within_seconds(5):
        kind, said = failure(device.transport.put, source, str(tmp_path / "there"), slow)
    assert kind == "timeout"
    assert "not done within 2 s" in said


def test_a_wait_has_an_end(device):
    process = device.transport.start(["sleep", "60"])
    with within_seconds(1), pytest.raises(TimeoutError):
        process.wait(0.3)
    process.kill()


def test_a_connection_lost_in_a_transfer_is_told_as_that(device, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(20_000_000))
    sock = device.transport.transport.sock

    def cut(done: float, total: float | None = None, unit: str = "") -> None:
        if done > 1e6:
            sock.shutdown(socket.SHUT_RDWR)

    expected = ("died", "rpi4: source was not transferred: the connection was lost")
    assert failure(device.transport.put, source, str(tmp_path / "there"), cut) == expected


@needs_proc
def test_a_killed_command_and_what_it_started_end_on_the_board(device, tmp_path):
    script = f"sleep 301 & sleep 302; : {tmp_path}"
    process = device.transport.start(["sh", "-c", f"cd {tmp_path}; {script}"])
    assert wait_until(lambda: len(running(tmp_path)) >= 3, 5)
    process.kill()
    assert wait_until(lambda: not running(tmp_path), 5)


HOST = """
import sys, time
from pathlib import Path
from qpipe_devices import ssh
host, port, user, key, known, source, there, back = sys.argv[1:]
device = ssh("board", host=host, port=int(port), user=user, key=Path(key), known_hosts=Path(known))
def slowly(done, total=None, unit=""):
    print("going", flush=True)
    time.sleep(60)
if back:
    device.transport.start(["sh", "-c", 'cat "$1"', "sh", source]).stdout.read(1)
    slowly(1)
device.transport.put(Path(source), there, slowly)
"""


@needs_proc
@pytest.mark.parametrize("back", ["", "yes"], ids=["put", "get"])
def test_a_killed_host_leaves_no_transfer_on_the_board(sshd, tmp_path, back):
    (tmp_path / "board").mkdir()
    source, there = tmp_path / "board" / "source", tmp_path / "board" / "there"
    source.write_bytes(bytes(20_000_000))
    own = tmp_path / "own"
    own.write_bytes(source.read_bytes())
    where = [sshd.host, str(sshd.port), sshd.user, str(sshd.key), str(sshd.known_hosts)]
    command = [sys.executable, "-c", HOST, *where, str(source if back else own), str(there), back]
    host = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert host.stdout.readline() == b"going\n"
    assert [process for process in running(tmp_path / "board") if process != host.pid]
    host.kill()
    host.wait()
    host.stdout.close()
    assert wait_until(lambda: not running(tmp_path / "board"), 5)


def test_what_opens_too_late_is_closed_as_well():
    opened: list[str] = []

    def slow() -> None:
        time.sleep(0.5)
        opened.append("late")

    with pytest.raises(TimeoutError):
        within(0.1, slow, opened.clear)
    time.sleep(0.8)
    assert opened == []


def test_a_watch_that_nothing_breaks_breaks_nothing():
    cuts: list[int] = []
    with Watch(lambda: cuts.append(1), 0.6, 0.3) as watch:
        for _ in range(5):
            time.sleep(0.1)
            watch.moved()
    time.sleep(0.4)
    assert not cuts
