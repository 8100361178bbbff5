"""Every call ends in time: against a frozen server, one that never answers, and one that answers too slowly; and what
is given up leaves nothing running on the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from processes import running

import qpipe
from qpipe_devices import ssh
from qpipe_devices.ssh import transport as ssh_transport
from qpipe_devices.ssh.deadlines import Watchdog, call_within
from waiting import LONGEST_S, ended_at_last, wait_until

needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def descendants(process: int) -> list[int]:
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True)
    pairs = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
    below: list[int] = []
    parents = [process]
    while parents:
        parent = parents.pop()
        children = [pid for pid, above in pairs if above == parent]
        below += children
        parents += children
    return below


@contextmanager
def frozen(*processes: int) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def server(start_sshd):
    """A server of the test's own, to be frozen."""
    return start_sshd("ed25519")


@pytest.fixture
def device(server, tmp_path):
    """Connected."""
    device = ssh("rpi4", **server.options(tmp_path / "board"), connect_timeout=LONGEST_S)
    device.transport.start(["true"]).wait(LONGEST_S)
    yield device
    device.close()


@pytest.fixture
def stalled(monkeypatch):
    """What does not move for a second has stalled; to end it there takes as long as it takes."""
    monkeypatch.setattr(ssh_transport, "STALLED_S", 1.0)
    monkeypatch.setattr(ssh_transport, "KILLED_S", LONGEST_S)


def failure(call, *arguments: object) -> tuple[str, str]:
    with pytest.raises(qpipe.DeviceError) as error:
        call(*arguments)
    return error.value.failure, str(error.value)


def test_a_server_that_accepts_and_says_nothing(sshd, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        device = ssh("rpi4", **{**sshd.options(tmp_path), "port": port}, connect_timeout=1)
        assert failure(device.transport.start, ["true"]) == (
            "unreachable",
            f"rpi4: 127.0.0.1:{port} gave no answer within 1 s; is it on, and is that its address?",
        )


def test_a_server_that_is_frozen_is_not_waited_for(server, tmp_path):
    device = ssh("rpi4", **server.options(tmp_path / "board"), connect_timeout=1)
    with frozen(server.process):
        kind, message = failure(device.transport.start, ["true"])
    assert kind == "unreachable"
    assert "gave no answer within 1 s" in message


def test_no_command_is_started_on_a_frozen_board_and_the_next_call_connects_again(server, device):
    connection = device.transport.connection
    connection.login = replace(connection.login, timeout=1)  # the next one has time
    with frozen(*descendants(server.process)):
        kind, message = failure(device.transport.start, ["true"])
    assert kind == "timeout"
    assert message.endswith("gave no answer within 1 s; is the line cut, or the board frozen?")
    assert device.transport.start(["true"]).wait(LONGEST_S) == 0


def test_an_upload_to_a_frozen_board_stops(server, device, stalled, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_transport, "KILLED_S", 0.3)  # nothing there can be ended
    source = tmp_path / "source"
    source.write_bytes(bytes(50_000_000))
    sessions = descendants(server.process)

    def freeze(done: float, total: float | None = None, unit: str = "") -> None:
        if done < 1e6:
            for process in sessions:
                os.kill(process, signal.SIGSTOP)

    try:
        kind, message = failure(device.transport.put, source, str(tmp_path / "there"), freeze)
    finally:
        for process in sessions:
            os.kill(process, signal.SIGCONT)
    assert kind == "timeout"
    assert message.startswith("rpi4: source was not transferred: nothing moved for 1 s; ")


def test_a_download_from_a_board_that_stops_reading_its_disk_stops(device, stalled, tmp_path):
    os.mkfifo(tmp_path / "never")
    assert failure(device.transport.get, str(tmp_path / "never"), tmp_path / "back")[0] == "timeout"
    assert wait_until(lambda: not running(tmp_path / "never"))


def test_a_transfer_that_crawls_stops(device, stalled, tmp_path, monkeypatch):
    """It moves all the while; to be through by its end would take ten times as long as it may."""
    monkeypatch.setattr(ssh_transport, "SLOWEST", 80e6)
    source = tmp_path / "source"
    source.write_bytes(bytes(40_000_000))
    slow = lambda done, total=None, unit="": time.sleep(0.1)  # noqa: E731
    kind, message = failure(device.transport.put, source, str(tmp_path / "there"), slow)
    assert kind == "timeout"
    assert "not done within 1.5 s" in message


def test_a_wait_has_an_end(device):
    process = device.transport.start(["sleep", "600"])
    with pytest.raises(TimeoutError):
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
def test_a_killed_command_and_what_it_started_end_on_the_board(device, stalled, tmp_path):
    script = f"sleep 301 & sleep 302; : {tmp_path}"
    process = device.transport.start(["sh", "-c", f"cd {tmp_path}; {script}"])
    assert wait_until(lambda: len(running(tmp_path)) >= 3)
    process.kill()
    assert wait_until(lambda: not running(tmp_path))


HOST = """
import sys, time
from pathlib import Path
from qpipe_devices import ssh
host, port, user, key, known, source, there, back = sys.argv[1:]
device = ssh("board", host=host, port=int(port), user=user, key=Path(key), known_hosts=Path(known))
def slowly(done, total=None, unit=""):
    print("going", flush=True)
    time.sleep(600)
if back:
    device.transport.start(["sh", "-c", 'cat "$1"', "sh", source]).stdout.read(1)
    slowly(1)
device.transport.put(Path(source), there, slowly)
"""


@needs_proc
@pytest.mark.parametrize("back", ["", "yes"], ids=["put", "get"])
def test_a_killed_host_leaves_no_transfer_on_the_board(sshd, tmp_path, back):
    board = tmp_path / "board"
    board.mkdir()
    source = board / "source"
    source.write_bytes(bytes(20_000_000))
    upload = tmp_path / "upload"
    upload.write_bytes(source.read_bytes())
    where = [sshd.host, str(sshd.port), sshd.user, str(sshd.key), str(sshd.known_hosts)]
    files = [str(source if back else upload), str(board / "there")]
    command = [sys.executable, "-c", HOST, *where, *files, back]
    with ended_at_last(subprocess.Popen(command, stdout=subprocess.PIPE)) as host:
        assert host.stdout.readline() == b"going\n"
        # it sends as soon as the board has promised to start what takes that
        assert wait_until(lambda: [pid for pid in running(board) if pid != host.pid])
    assert wait_until(lambda: not running(board))


def test_what_opens_too_late_is_closed_as_well():
    opened: list[str] = []
    given_up = threading.Event()
    closings: list[int] = []

    def open_late() -> None:
        given_up.wait(LONGEST_S)
        opened.append("late")

    def close() -> None:
        opened.clear()
        closings.append(len(closings))

    with pytest.raises(TimeoutError):
        call_within(0.1, open_late, cancel=close)
    given_up.set()
    assert wait_until(lambda: len(closings) == 2)
    assert opened == []


def test_a_watch_cuts_what_stalls_and_what_takes_too_long_and_nothing_else():
    watch = Watchdog(lambda: None, 10, 3)
    began = watch.started_at
    watch.last_progress_at = began + 2
    assert watch.reason_to_cancel(began + 4.9) == ""
    assert watch.reason_to_cancel(began + 5) == "nothing moved for 3 s"
    watch.last_progress_at = began + 9
    assert watch.reason_to_cancel(began + 9.9) == ""
    assert watch.reason_to_cancel(began + 10) == "not done within 10 s"


def test_a_watch_ends_with_what_it_watches():
    cuts: list[int] = []
    with Watchdog(lambda: cuts.append(1), 2 * LONGEST_S) as watch:
        watch.note_progress()
    assert wait_until(lambda: not watch.thread.is_alive())
    assert not cuts
