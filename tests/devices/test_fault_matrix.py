"""The fault matrix: what a run does when its board or the way to it fails, a line a fault, against real processes.

For each: the run ends or goes on; its one line and the type of failure are right;
what was measured whole is kept; no wrong number is stored; nothing is left on the board. Faults of the network itself
are in test_fault_matrix_network.py, those that take a board of its own in tests/board.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fault_lab
import numpy as np
import pytest
from fault_lab import Site, stop

from qpipe.errors import Failure
from waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        fault_lab.SSHD is None, reason="no sshd is installed: apt-get install openssh-server"
    ),
    pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc"),
]


# reads to the end: of one that ends before, the host learns while it sends, or later, by chance
TRUNCATE = "head -c 500; exec /bin/cat > /dev/null"
# in place of the runtime: one that takes all the memory that it may have
HOG = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
taken = []
while True:
    taken.append(bytes(16 << 20))
"""


@dataclass(frozen=True)
class Fault:
    """What happens, when, and what a run makes of it."""

    cause: Callable[[Site], None]
    when: Literal["before", "uploading", "measuring"]
    status: int = 0  # of the run: 0 it goes on to its end, 1 it does not
    says: str = ""  # a line of its output, as a regular expression
    failure: Failure | None = None  # the type of what failed on the way
    as_root: bool = False
    is_long: bool = False


# ---- before the run


def no_python(site: Site) -> None:
    site.options["python"] = "/nowhere/python3"


def old_python(site: Site) -> None:
    pretend = "import sys; sys.version_info = (3, 6, 9, 'final', 0); code = sys.argv.pop(2); del sys.argv[1]; exec(code)"
    site.options["python"] = str(
        site.spoil("python3.6", f'exec {sys.executable} -c "{pretend}" "$@"')
    )


def no_python_at_all(site: Site) -> None:
    site.options["python"] = str(
        site.spoil("python3", "echo 'syntax error near unexpected token' >&2; exit 2")
    )


def no_runtime(site: Site) -> None:
    numpy = Path(np.__file__).parent
    bare = site.folder / "bare"
    bare.mkdir()
    for each in (numpy, numpy.with_name("numpy.libs")):
        if each.exists():
            (bare / each.name).symlink_to(each)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    site.options["python"] = str(site.spoil("python3", f'PYTHONPATH={bare} exec {python} -s "$@"'))


def no_memory(site: Site) -> None:
    hungry = site.folder / "hungry"
    hungry.mkdir()
    (hungry / "onnxruntime.py").write_text(HOG, encoding="utf-8")
    site.options["python"] = str(
        site.spoil("python3", f'PYTHONPATH={hungry} exec {sys.executable} "$@"')
    )


def wrong_host_key(site: Site) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", site.folder / "other"], check=True
    )
    kind, key = (site.folder / "other.pub").read_text(encoding="utf-8").split()[:2]
    known = site.folder / "known_hosts"
    known.write_text(f"[{site.address}]:{site.port} {kind} {key}\n", encoding="utf-8")


def read_only_home(site: Site) -> None:
    if os.getuid() == 0:  # whom no permission stops
        for options in (["--bind"], ["-o", "remount,ro,bind"]):
            subprocess.run(
                ["mount", *options, site.folder / "home", site.folder / "home"], check=True
            )
    else:
        (site.folder / "home").chmod(0o555)


def full_disk(site: Site) -> None:
    site.board.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", site.board], check=True
    )


def noise(site: Site) -> None:
    """A shell that talks before and after, as many do."""
    lines = "echo Welcome to the board; echo '{\"id\": 1}'; printf 'no line feed'\n"
    (site.folder / "home/.bashrc").write_text(lines, encoding="utf-8")
    site.cut_power()
    site.start(level=0)


def corrupted_blob(site: Site) -> None:
    blobs = list(site.board.glob("blobs/*"))
    largest = max(blobs, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def truncated_once(site: Site) -> None:
    once = site.folder / "once"
    site.spoil("cat", f'if mkdir {once} 2>/dev/null; then {TRUNCATE}; fi; exec /bin/cat "$@"')


def truncated_always(site: Site) -> None:
    site.spoil("cat", TRUNCATE)


# ---- while a file travels


def session_killed(site: Site) -> None:
    for pid in site.sessions():
        stop(pid, signal.SIGKILL)


# ---- while it measures


def agent_killed(site: Site) -> None:
    for pid in site.agents():
        stop(pid, signal.SIGKILL)


def job_killed(site: Site) -> None:
    for pid in site.runners():
        stop(pid, signal.SIGKILL)


def jobs_killed(site: Site) -> None:
    """Each of them, until it is more than the stage itself tries: a failure is written down."""

    def kill_until_it_fails() -> bool:
        job_killed(site)
        return bool(site.failures())

    assert wait_until(kill_until_it_fails)


def frozen_for_good(site: Site) -> None:
    """All that there was of the run; the board itself answers."""
    for pid in [*site.sessions(), *site.processes()]:
        stop(pid, signal.SIGSTOP)


def frozen_for_a_while(site: Site) -> None:
    frozen = [site.server.pid] if site.server else []
    frozen += [*site.sessions(), *site.processes()]
    for pid in frozen:
        stop(pid, signal.SIGSTOP)
    time.sleep(5)  # longer than silence_s
    for pid in frozen:
        stop(pid, signal.SIGCONT)


def off_and_on(site: Site) -> None:
    site.cut_power()
    time.sleep(4)
    site.start()


LOST = r"^@?board/latency: board: .*; trying again$"
FAULTS = {
    "no python": Fault(
        no_python, "before", 1, r"^qpipe: board: '/nowhere/python3' does not start the agent .*; set python to one",
        is_long=True,
    ),
    "wrong python": Fault(
        old_python, "before", 1, r"^qpipe: board: .*python 3\.6 is too old; it must be 3\.8 or newer",
        is_long=True,
    ),
    "no python at all": Fault(
        no_python_at_all, "before", 1, r"^qpipe: board: .*does not start the agent \(its last line: syntax error",
    ),
    "no runtime": Fault(
        no_runtime, "before", 1, r"^qpipe: board: onnxruntime is not installed there; run: qpipe devices setup board$",
    ),
    "out of memory": Fault(
        no_memory, "before", 1, r"runner run_onnxruntime\.py could not load .*MemoryError", "out of memory",
        is_long=True,
    ),
    "wrong host key": Fault(
        wrong_host_key, "before", 1, r"^qpipe: board: host key of 127\.0\.0\.1 is not the one in .*ssh-keygen|rekey",
    ),
    "read-only home": Fault(
        read_only_home, "before", 1, r"^qpipe: board: .*(Read-only file system|Permission denied)",
    ),
    "disk full": Fault(
        full_disk, "before", 1, r"board: no room for .* free in .*; free space or run: qpipe devices clean board",
        "no room", as_root=True,
    ),
    "noise on stdout": Fault(noise, "before", is_long=True),
    "corrupted blob": Fault(corrupted_blob, "before"),
    "truncated upload": Fault(truncated_once, "before"),
    "uploads always truncated": Fault(
        truncated_always, "before", 1, r"arrived damaged 3 times", "died", is_long=True,
    ),
    "sshd session killed mid-upload": Fault(session_killed, "uploading", failure="died"),
    "sshd session killed": Fault(session_killed, "measuring", says=LOST, is_long=True),
    "agent killed": Fault(agent_killed, "measuring", says=LOST),
    "job killed": Fault(job_killed, "measuring"),
    "jobs killed again and again": Fault(
        jobs_killed, "measuring", 0, r"was killed by SIGKILL", "died", is_long=True,
    ),
    "frozen for good": Fault(frozen_for_good, "measuring", is_long=True),
    "frozen for a while": Fault(frozen_for_a_while, "measuring", is_long=True),
    "powered off and back": Fault(off_and_on, "measuring"),
}  # fmt: skip


def unmount(place: Path) -> None:
    """Unmount all that a fault mounted at `place`, also while a process that ends has a file open there."""
    command = ["umount", "--lazy", place]
    while subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        pass


@pytest.fixture
def site(undisturbed: Site, tmp_path: Path) -> Iterator[Site]:
    made = fault_lab.copy(undisturbed, tmp_path / "site")
    yield made
    made.end()
    for place in (made.board, made.folder / "home"):
        unmount(place)
    (made.folder / "home").chmod(0o755)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.lab if fault.is_long else ())
        for name, fault in FAULTS.items()
    ],
)
def test_a_fault_ends_as_it_should(name: str, site: Site, undisturbed: Site) -> None:
    fault = FAULTS[name]
    if fault.as_root and os.getuid() != 0:
        pytest.skip("mounts a file system: run it as root")
    if fault.cause is corrupted_blob:  # it has been there before
        shutil.copytree(undisturbed.board, site.board)
    if fault.when == "before":
        fault.cause(site)
    if fault.when == "uploading":
        site.hold_uploads()
    run = site.run()
    if fault.when == "uploading":
        site.await_upload()
    if fault.when == "measuring":
        site.measuring(run)
    kept = site.journalled()
    if fault.when != "before":
        fault.cause(site)
    if fault.when == "uploading":
        site.let_uploads_through()
    ended = site.finish(run)
    assert ended.status == fault.status, ended.said
    assert re.search(fault.says, ended.said, re.M), ended.said
    assert site.failures() == ({fault.failure} if fault.failure else set()), ended.said
    site.check_nothing_left()
    site.check_numbers(undisturbed.numbers(), whole=fault.status == 0)
    site.check_kept(kept)


def read_until(run: subprocess.Popen[str], word: str) -> str:
    """What a run says, up to a line with that word."""
    said = []
    for line in run.stdout or ():
        said.append(line)
        if word in line:
            return "".join(said)
    raise AssertionError("".join(said))


def test_of_two_runs_at_once_one_waits_and_says_for_whom(site: Site, undisturbed: Site) -> None:
    busy = site.folder / "busy"
    busy.touch()
    site.spoil("cat", f'while [ -e {busy} ]; do sleep 0.1; done; exec /bin/cat "$@"')
    first = site.run("--only", "float32")
    assert wait_until((site.board / "lease.json").exists, fault_lab.LONGEST_RUN_S)
    second = site.run()
    told = read_until(second, "; waiting")
    busy.unlink()
    ends = [site.finish(first), site.finish(second)]
    assert [ended.status for ended in ends] == [0, 0], [ended.said for ended in ends]
    purpose = rf"\(pid {first.pid}, run \S+ of recipe\.yaml, \S+\)"
    assert re.search(rf"^board: busy: held by \S+@\S+ since .* {purpose}; waiting$", told, re.M), (
        told
    )
    assert site.failures() == set()
    site.check_nothing_left()
    site.check_numbers(undisturbed.numbers())


LINES = 15  # what a run prints at least, a line an event, until it shows its numbers


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.lab) for n in range(1, 50))]
)
def test_a_host_that_is_killed_at_a_random_moment_goes_on(
    seed: int, site: Site, undisturbed: Site
) -> None:
    """At most a second after any of the lines that a run prints."""
    chance = random.Random(seed)
    run = site.run()
    assert run.stdout
    for _ in range(chance.randint(1, LINES)):
        assert run.stdout.readline()
    time.sleep(chance.random())
    with suppress(ProcessLookupError):  # it may be over
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert wait_until(lambda: not site.processes()), "something still runs on the board"
    kept = site.journalled()
    ended = site.finish(site.run())
    assert ended.status == 0, ended.said
    assert site.failures() == set()
    site.check_nothing_left()
    site.check_numbers(undisturbed.numbers())
    site.check_kept(kept)
