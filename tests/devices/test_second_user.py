"""Another user of the board, who squats, links, signals and reads: nothing of a run is lost, read, or run as somebody else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import agents

import qpipe
from qpipe_devices import agent_package, local
from qpipe_devices.setup import bare_calls
from small_build import nothing
from waiting import ended_at_last

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user: needs root")
MARKER = "qpipe-ran-this"

# the interpreter may be closed to the other user, who therefore gets it running
BECOME_OTHER = f"""
import fcntl, json, os, signal, sys
os.umask(0)
os.setgroups([])
os.setgid({pwd.getpwnam("nobody").pw_gid})
os.setuid({pwd.getpwnam("nobody").pw_uid})
exec(sys.argv.pop(1))
"""


class Board:
    """A folder that all may enter, and in it one that all may write, as /tmp is."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.chmod(0o755)
        self.shared = place / "tmp"
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self.lock = self.shared / "qpipe.lock"

    def open(self, folder: Path | None = None) -> qpipe.Device:
        place = folder or self.place / "mine"
        return local("board", folder=place, lock=str(self.lock))

    def as_other(self, program: str, *words: str) -> subprocess.Popen[str]:
        """A program of the other user, in Python."""
        return subprocess.Popen(
            [sys.executable, "-I", "-c", BECOME_OTHER, program, *words],
            cwd="/", text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def told(self, program: str, *words: str) -> str:
        """What a program of the other user prints to its end."""
        process = self.as_other(program, *words)
        with ended_at_last(process):
            out, _ = process.communicate(timeout=500)
        return out


@pytest.fixture
def board() -> Iterator[Board]:
    place = Path(tempfile.mkdtemp(prefix="qpipe-board-", dir="/tmp"))
    made = Board(place)
    yield made
    shutil.rmtree(place)


READ = """
import os, sys
for folder, folders, files in os.walk(sys.argv[1]):
    for name in files:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                print(os.path.join(folder, name))
        except OSError:
            pass
for known in sys.argv[2:]:
    try:
        print(open(known, "rb").read())
    except PermissionError:
        pass
"""
MEDDLE = """
import os, signal, sys
lock, agent, *paths = sys.argv[1:]
done = []
def tried(name, call):
    try:
        call()
    except (PermissionError, FileExistsError):
        return
    print(name)
tried("signal", lambda: os.kill(int(agent), signal.SIGKILL))
for path in paths:
    tried("remove", lambda: os.remove(path))
    tried("replace", lambda: os.rename(lock, path))
    tried("write", lambda: open(path, "ab"))
tried("remove the lock", lambda: os.remove(lock))
with open(lock, "r+b") as file:
    file.write(b'{"holder": "x", "session": 7, "pid": 1, "silence_s": 0, "beat": 0, "hold": {"ends": 1e300}}')
    file.truncate(5000)
"""


def test_what_is_stored_is_read_and_changed_by_its_owner_alone(
    board: Board, build: qpipe.Build, samples: qpipe.Samples
) -> None:
    device = board.open()
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    expected = [outputs["mean"] for outputs in device.infer(*places, 3)]
    mine = board.place / "mine"
    paths = [str(path) for path in mine.rglob("*") if path.is_file()]
    assert any("blobs" in path for path in paths)
    assert board.told(READ, str(board.place / "mine"), *paths) == ""
    (agent,) = agents(mine)
    assert board.told(MEDDLE, str(board.lock), str(agent), *paths) == ""
    again = [outputs["mean"] for outputs in device.infer(*places, 3)]
    np.testing.assert_array_equal(again, expected)
    assert device.round(*places, warmup_s=0, values=2, budget_s=5).values_ms
    device.close()
    assert [path for path in mine.rglob("*") if path.lstat().st_mode & 0o077] == []


SQUAT = """
import os, sys
folder, name, content = sys.argv[1:]
for place in ("agent", "python/0"):
    os.makedirs(os.path.join(folder, place))
open(os.path.join(folder, "python/current"), "w").write("0")
open(os.path.join(folder, "python/0/numpy.py"), "w").write(content)
open(os.path.join(folder, "agent", name), "w").write(content)
"""


@pytest.mark.parametrize("whose", ["theirs", "open to them"])
def test_a_folder_that_others_may_change_is_not_used(board: Board, whose: str) -> None:
    squatted = board.shared / "board"
    if whose == "open to them":
        squatted.mkdir()
        squatted.chmod(0o777)
    name = f"{agent_package.start_program('x', folder='', holder='', silence_s=1).command[5]}.pyz"
    code = f"open({str(board.place / MARKER)!r}, 'w')"
    assert board.told(SQUAT, str(squatted), name, code) == ""
    device = board.open(squatted)
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    assert error.value.failure == "configuration"
    reasons = {
        "theirs": f"{squatted} belongs to user {squatted.stat().st_uid}, ",
        "open to them": f"{squatted} may be written by others, ",
    }
    assert f"{reasons[whose]}who could change what is run" in str(error.value)
    assert "who could change what is run" in bare_calls.probe(device, [])["blocked"]  # type: ignore[arg-type]
    with pytest.raises(qpipe.DeviceError, match="who could change what is run"):
        bare_calls.install(device, "0" * 64, [])  # type: ignore[arg-type]
    assert not (board.place / MARKER).exists()


LINK = "import os, sys; os.symlink(sys.argv[1], sys.argv[2])"


def test_a_lock_that_links_elsewhere_is_told_and_nothing_is_written(board: Board) -> None:
    precious = board.place / "precious"
    precious.write_text("precious", encoding="utf-8")
    board.told(LINK, str(precious), str(board.lock))
    with pytest.raises(qpipe.DeviceError, match=r"lock \S+ cannot be opened: "):
        board.open().capabilities()
    assert precious.read_text(encoding="utf-8") == "precious"


HOLD = """
import fcntl, json, os, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump({"holder": "root@lab", "session": "0" * 32, "silence_s": 0.1, "pid": int(sys.argv[2]),
               "since": "\\x1b[2J", "beat": 0.1, "purpose": "\\n"}, file)
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_squats_on_the_lock_is_named_by_the_kernel_and_ends_nobody(board: Board) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()", "0" * 32], stdin=subprocess.PIPE)
    squatter = board.as_other(HOLD, str(board.lock), str(victim.pid))
    with ended_at_last(victim), ended_at_last(squatter):
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "held\n"
        with pytest.raises(qpipe.BusyError) as error:
            board.open().capabilities()
        assert str(error.value).startswith(
            f"board: busy: held by process {squatter.pid} of user nobody"
        )
        assert str(error.value).isprintable()
        assert victim.poll() is None
        assert squatter.poll() is None
