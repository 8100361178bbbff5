"""A board serves one at a time, whoever asks from wherever, and is free soon after its holder is no more."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import DEAF, agents, running, when

import qpipe
from qpipe_devices import local, ssh
from qpipe_devices.agent import lease
from qpipe_devices.agent.failures import AgentError
from small_build import nothing, write_build
from waiting import ended_at_last, wait_until

NOBODY = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user: needs root")
LINUX = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def agent_of(folder: Path) -> int:
    """The agent's process."""
    (found,) = agents(folder)
    return found


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "lease.json").read_text(encoding="utf-8"))


@pytest.fixture
def open_local(tmp_path: Path) -> Iterator:
    """Opens local devices, with how long they may be silent; closes them at the end."""
    opened = []

    def make(
        name: str, silence_s: float = 30, folder: str = "board", **options: object
    ) -> qpipe.Device:
        device = local(name, folder=tmp_path / folder, **options)
        device.silence_s = silence_s
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()


def test_each_lease_has_a_higher_number_than_the_one_before(open_local, tmp_path):
    tokens = []
    for name in ("one", "two"):
        device = open_local(name)
        device.capabilities()
        tokens.append(record(tmp_path / "board")["token"])
        device.close()
    assert tokens == [1, 2]


def test_a_lock_of_one_name_keeps_apart_who_has_folders_of_their_own(open_local, sshd, tmp_path):
    lock = tmp_path / "shared"
    first = open_local("first", folder="here", lock=str(lock))
    first.capabilities()
    second = ssh("second", **{**sshd.options(tmp_path / "there"), "lock": str(lock)})
    with pytest.raises(
        qpipe.BusyError,
        match=r"^second: busy: held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} \(pid \d+\)$",
    ):
        second.capabilities()
    first.close()
    assert second.capabilities().cores > 0
    second.close()


@NOBODY
@LINUX
def test_another_user_takes_the_same_lock_and_reads_who_has_it(open_local, tmp_path):
    tmp_path.chmod(0o1777)
    for (
        parent
    ) in tmp_path.parents:  # pytest closes its own to others; how many there are depends on -n
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    lock, user = tmp_path / "shared", pwd.getpwnam("nobody").pw_uid
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom qpipe_devices.agent import lease\n"
        f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
        "asker = lease.Client('them@there', 'e' * 32, 30)\n"
        f"held = lease.take_lease(Path({str(tmp_path / 'theirs')!r}), Path({str(lock)!r}), asker)\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with ended_at_last(other):
        assert other.stdout.readline() == b"ready\n"
        mine = open_local("mine", lock=str(lock))
        with pytest.raises(qpipe.BusyError, match=r"^mine: busy: held by them@there since 20"):
            mine.capabilities()
    assert mine.capabilities().cores > 0


def test_a_lock_is_not_opened_through_a_link(open_local, tmp_path):
    (tmp_path / "shared").symlink_to(tmp_path / "precious")
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: lock \S+ cannot be opened: .*; remove it there, ",
    ) as error:
        open_local("board", lock=str(tmp_path / "shared")).capabilities()
    assert error.value.failure == "configuration"
    assert not (tmp_path / "precious").exists()


def test_a_lock_that_is_another_name_of_a_file_is_not_written(open_local, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    os.link(tmp_path / "precious", tmp_path / "shared")
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: lock \S+ is not a regular file with a single name; remove it there$",
    ):
        open_local("board", lock=str(tmp_path / "shared")).capabilities()
    assert (tmp_path / "precious").read_bytes() == b"precious"


@LINUX
def test_a_frozen_host_loses_the_board_and_the_next_one_gets_it(open_local, tmp_path):
    program = (
        "import time\nfrom pathlib import Path\nfrom qpipe_devices import local\n"
        f"device = local('theirs', folder=Path({str(tmp_path / 'board')!r}))\ndevice.silence_s = 2.0\n"
        "device.capabilities()\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd="/")
    with ended_at_last(host):
        assert host.stdout.readline() == b"ready\n"
        host.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: not agents(tmp_path / "board"))
        assert open_local("mine").capabilities().cores > 0


@LINUX
def test_a_frozen_agent_is_ended_by_whoever_comes_next_and_its_host_is_told(
    open_local, build, samples, tmp_path
):
    frozen, coming = open_local("frozen", silence_s=2.0), open_local("coming")
    places = frozen.store(build.folder, nothing), frozen.store(samples.folder, nothing)
    os.kill(agent_of(tmp_path / "board"), signal.SIGSTOP)
    time.sleep(2.2)  # longer than it may be silent
    assert coming.capabilities().cores > 0
    frozen.patience_s = 0
    with pytest.raises(qpipe.DeviceError, match="the connection was lost") as error:
        frozen.round(*places, warmup_s=0, values=1, budget_s=1)
    assert error.value.failure == "died"
    with pytest.raises(qpipe.BusyError, match="held by"):
        frozen.capabilities()


@LINUX
def test_who_lost_the_line_gets_the_board_back_from_its_own_agent_at_once(open_local, tmp_path):
    device = open_local("board")
    device.capabilities()
    first = device._conversation
    device._conversation = (
        None  # the agent still listens: nothing has told it that the line is gone
    )
    assert device.capabilities().cores > 0  # whoever else would be told that it is busy
    assert wait_until(lambda: len(running(tmp_path / "board")) == 1)
    first.close()


def test_a_holder_that_comes_back_late_can_write_no_result(open_local, tmp_path):
    """Its lock lies in a file that somebody removed, so that another got the board beside it."""
    late, newer = open_local("late"), open_local("newer")
    late.capabilities()
    (tmp_path / "board" / "lock").unlink()
    newer.capabilities()
    with pytest.raises(
        qpipe.DeviceError, match=r"^late: the lease was lost to \S+@\S+ since 2.*; run again$"
    ) as error:
        late.capabilities()
    assert error.value.failure == "died"


def test_a_round_during_which_the_lease_was_lost_is_no_result(open_local, samples, tmp_path):
    slow = (
        "import os, time\nfrom qpipe_agent import wire\nsource, sink = wire.claim()\nwire.read_message(source)\n"
        "wire.write_message(sink, {'load_ms': 1.0, 'runtime_mb': 1.0, 'inputs': ['image'], 'outputs': ['y']})\n"
        f"wire.read_message(source)\nopen({str(tmp_path / 'began')!r}, 'w')\n"
        f"while not os.path.exists({str(tmp_path / 'given away')!r}): time.sleep(0.01)\n"
        "wire.write_message(sink, {'first_ms': 1.0, 'warmups': 0, 'values_ns': [1], 'peak_mb': 2.0})\nwire.read_message(source)\n"
    )
    build = write_build(tmp_path / "build", "run_slow.py", {"run_slow.py": slow})
    device = open_local("late")
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)

    def give_away() -> None:
        path = tmp_path / "board" / "lease.json"
        path.write_text(
            json.dumps({**record(tmp_path / "board"), "token": 99, "holder": "b@c"}),
            encoding="utf-8",
        )
        (tmp_path / "given away").touch()

    thread = when((tmp_path / "began").exists, give_away)
    with pytest.raises(qpipe.DeviceError, match=r"^late: the lease was lost to b@c since"):
        device.round(*places, warmup_s=0, values=1, budget_s=60)
    thread.join()
    assert not [path for path in (tmp_path / "board" / "journal").iterdir() if path.stat().st_size]


@LINUX
@pytest.mark.parametrize("words", [(), ("0" * 32,)], ids=["another program", "looks like an agent"])
def test_what_a_lock_says_is_not_believed(words, tmp_path, monkeypatch):
    """Anybody may write into it: no process is ended that does not have the lock open."""
    monkeypatch.setattr(lease, "LOCK_WAIT_S", 0.2)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])
    said = {
        "holder": "x",
        "session": "0" * 32,
        "silence_s": 0.1,
        "pid": victim.pid,
        "since": "now",
        "beat": 0.0,
    }
    lock = tmp_path / "shared"
    lock.write_text(json.dumps(said), encoding="utf-8")
    with ended_at_last(victim), lock.open() as held:
        lease.fcntl.flock(held, lease.fcntl.LOCK_EX)
        with pytest.raises(
            AgentError, match=r"^busy: held by process \d+ of user \S+, which is no agent$"
        ):
            lease.take_lease(tmp_path / "board", lock, lease.Client("me", "1" * 32, 30))
        assert victim.poll() is None


@LINUX
def test_an_agent_that_is_killed_leaves_no_runner_however_deaf_it_is(open_local, samples, tmp_path):
    build = write_build(tmp_path / "build", "run_deaf.py", {"run_deaf.py": DEAF})
    device = open_local("board")
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    device.patience_s = 0
    board = tmp_path / "board"
    thread = when(
        lambda: len(running(board)) == 3, lambda: os.kill(agent_of(board), signal.SIGKILL)
    )
    with pytest.raises(qpipe.DeviceError, match="the connection was lost"):
        list(device.infer(*places, 1))
    thread.join()
    assert wait_until(lambda: not running(board))


def test_a_hold_keeps_everybody_off_and_says_who_why_and_until_when(open_local):
    mine, other = open_local("mine"), open_local("other")
    held = mine.hold(3600, "a new heat sink")
    mine.close()
    for device in (mine, other):
        with pytest.raises(qpipe.BusyError) as error:
            device.capabilities()
        said = (
            f"busy: held by {held.holder} since {held.since} until {held.until} (a new heat sink)"
        )
        assert str(error.value) == f"{device.name}: {said}"
    assert mine.release()
    assert not mine.release()
    mine.close()
    assert other.capabilities().cores > 0


def test_a_hold_keeps_off_who_has_another_folder_too(open_local, tmp_path):
    lock = str(tmp_path / "shared")
    mine, other = (open_local(name, folder=name, lock=lock) for name in ("mine", "other"))
    mine.hold(3600, "a new heat sink")
    mine.close()
    for _ in range(2):
        with pytest.raises(qpipe.BusyError, match=r"^other: busy: held by .* \(a new heat sink\)$"):
            other.capabilities()
    assert mine.release()
    mine.close()
    assert other.capabilities().cores > 0


@pytest.mark.parametrize(
    "hold",
    [7, {}, {"ends": 9e99}, {"ends": "x", "holder": "", "since": "", "until": "", "reason": ""}],
)
def test_a_hold_in_the_lock_that_is_none_keeps_nobody_off(hold, open_local, tmp_path):
    (tmp_path / "shared").write_text(json.dumps({"hold": hold}), encoding="utf-8")
    assert open_local("board", lock=str(tmp_path / "shared")).capabilities().cores > 0


def test_a_hold_ends_by_itself(open_local):
    mine, other = open_local("mine"), open_local("other")
    mine.hold(0.5)
    mine.close()
    time.sleep(0.6)
    assert other.capabilities().cores > 0


def test_a_hold_waits_for_no_run(open_local):
    running_there, mine = open_local("there"), open_local("mine")
    running_there.capabilities()
    with pytest.raises(qpipe.BusyError, match="held by"):
        mine.hold(60)


def test_a_hold_of_somebody_else_is_released_by_force_alone(open_local, tmp_path):
    mine = open_local("mine")
    mine.hold(60, "theirs")
    mine.close()
    path = tmp_path / "board" / "lease.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace(mine.hold(60).holder, "them@there"),
        encoding="utf-8",
    )
    mine.close()
    for ask in (mine.release, lambda: mine.hold(60)):
        with pytest.raises(qpipe.BusyError, match="held by them@there"):
            ask()
    assert mine.release(force=True)


def test_an_agent_of_another_version_says_so(open_local, tmp_path):
    newer = tmp_path / "python3"
    newer.write_text('#!/bin/sh\necho "qpipe-agent-2 ready"\ncat > /dev/null\n', encoding="utf-8")
    newer.chmod(0o755)
    with pytest.raises(qpipe.DeviceError) as error:
        open_local("board", python=str(newer)).capabilities()
    said = "the agent there speaks version 2 of the protocol, this qpipe version 1; update the older one"
    assert str(error.value) == f"board: {said}"
    assert error.value.failure == "configuration"


@LINUX
def test_who_does_not_read_is_given_up_in_time(open_local, tmp_path):
    device = open_local("board")
    device.capabilities()
    device._conversation.silence_s = 1.0
    os.kill(agent_of(tmp_path / "board"), signal.SIGSTOP)
    files = {str(index): ["0" * 64, 1] for index in range(20_000)}  # more than a pipe holds
    with pytest.raises(qpipe.DeviceError, match=r"^board: ") as error:
        device._request("missing", 600, files=files)
    assert error.value.failure == "died"


@NOBODY
@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="mounts a small disk")
def test_who_comes_to_clean_gets_in_although_the_disk_is_full(open_local, tmp_path):
    build, larger = write_build(tmp_path / "build"), write_build(tmp_path / "larger")
    (larger.folder / "new").write_bytes(b"x")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False
    ).returncode:
        pytest.skip("may not mount")
    try:
        device = open_local("board", folder="disk/board", min_free_mb=0)
        device.store(build.folder, nothing)
        device.close()
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
            filler.write(bytes(4_000_000))
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x")
        with pytest.raises(qpipe.DeviceError, match="no room for ") as error:
            device.store(larger.folder, nothing)
        assert error.value.failure == "no room"
        assert device.clean() > 0
    finally:
        device.close()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_what_a_device_is_can_be_asked_while_others_have_it(open_local):
    holder = open_local("board")
    holder.purpose = "run r1 of theirs.yaml"
    free = open_local("other").look()
    assert (free.holder, free.capabilities) == ("", holder.capabilities())
    look = open_local("other").look()
    assert look.capabilities == holder.capabilities()
    assert look.holder.endswith("(run r1 of theirs.yaml)")
    assert holder.look() == qpipe.types.Look(holder.capabilities())


def test_who_waits_comes_before_whoever_comes_later(open_local, monkeypatch):
    holder = open_local("holder", silence_s=0.5)
    waiting = open_local("waiting")
    late = open_local("late")
    holder.capabilities()
    assert not holder.others_wait
    waiting.waits = True
    for device in (waiting, late):  # whoever does not wait is not in the queue
        with pytest.raises(qpipe.BusyError, match="held by"):
            device.capabilities()
    assert wait_until(lambda: holder.others_wait)
    holder.close()
    with pytest.raises(qpipe.BusyError, match="busy: held by"):
        holder.capabilities()
    assert waiting.capabilities().cores > 0
    waiting.close()
    assert late.capabilities().cores > 0
