"""The fault matrix, where it takes a board of its own: its power, its clock, its memory, and all of it frozen."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fault_lab
import pytest
from fault_lab import Site
from ready_board import Start
from virtual_board import Board

from qpipe.errors import Failure
from waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
TOOL = Path(__file__).with_name("board.py")
FOLDER = "/home/edge/.qpipe"
# what Python runs first: a runner that takes all the memory there is
HOG = """
import sys
if "run_onnxruntime" in " ".join(sys.orig_argv):
    taken = []
    while True:
        taken.append(b"x" * (64 << 20))
"""


@dataclass
class BoardSite(Site):
    """A lab whose board is a virtual one."""

    virtual: Board | None = None
    beside: dict[str, Any] = field(default_factory=lambda: {"emulated": "wall"})

    def start(self, level: int = 2) -> None:
        """It runs already."""

    def cut_power(self) -> None:
        assert self.virtual
        self.virtual.kill()

    def processes(self) -> list[int]:
        """All that was started there over SSH: the mark is in the environment of each, also of a transfer's `cat`; a
        guard, which must outlive its call, has the agent's path there."""
        marks = "-e QPIPE_CALL= -e '/agent/[0-9a-f]*[.]pyz'"
        return self._numbers(f"grep -ls {marks} /proc/[0-9]*/environ | tr -dc '0-9\\n'")

    def runners(self) -> list[int]:
        return self._numbers("pgrep -f run_onnxruntim[e]; true")

    def check_nothing_left(self) -> None:
        assert self.virtual
        assert wait_until(lambda: not self.processes()), self.virtual.ssh("ps", "ax").stdout
        left = self.virtual.ssh("find", FOLDER, "-path", "'*/incoming*'", "-type", "f")
        assert (left.returncode, left.stdout) == (0, ""), left

    def _numbers(self, script: str) -> list[int]:
        """What a script that cannot fail prints there."""
        assert self.virtual
        ended = self.virtual.ssh(script)
        assert ended.returncode == 0, ended
        return [int(word) for word in ended.stdout.split()]


@pytest.fixture
def site(undisturbed: Site, start_board: Start, tmp_path: Path) -> Iterator[BoardSite]:
    board = start_board()
    made = fault_lab.copy(undisturbed, tmp_path / "site", BoardSite, virtual=board)
    places = {**board.options(), "python": "python3", "folder": FOLDER, "lock": "/tmp/qpipe.lock"}
    made.options = {**places, "connect_timeout": 20, "silence_s": 10, "deadline_s": 120}
    yield made
    made.end()


# ---- while it measures


def board_of(site: BoardSite) -> Board:
    assert site.virtual
    return site.virtual


def frozen(site: BoardSite) -> None:
    board_of(site).freeze()
    time.sleep(20)
    board_of(site).thaw()


def clock_forward(site: BoardSite) -> None:
    board_of(site).ssh("date", "-s", f"@{time.time() + 3600:.0f}")


def clock_back(site: BoardSite) -> None:
    board_of(site).ssh("date", "-s", "@1000000000")


def power_lost(site: BoardSite) -> None:
    """Nobody gives it back but qpipe."""
    board_of(site).kill()


def power_lost_and_back(site: BoardSite) -> None:
    board_of(site).kill()
    time.sleep(3)
    board_of(site).power_on()


@dataclass(frozen=True)
class Fault:
    """What happens while a run measures, and what it makes of it."""

    cause: Callable[[BoardSite], None]
    switched: bool = False  # qpipe has a switch for its power
    says: str = ""
    failures: frozenset[Failure] = frozenset()


FAULTS = {
    "frozen for 20 s": Fault(frozen),
    "clock jumped an hour": Fault(clock_forward),
    "clock jumped back by years": Fault(clock_back),
    "powered off and back": Fault(power_lost_and_back),
    "powered off until its power is switched": Fault(
        power_lost, True, r"^board: .*; switching its power off and on$", frozenset({"unreachable", "died", "timeout"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_board_that_fails_does_not_fail_the_run(
    name: str, site: BoardSite, undisturbed: Site
) -> None:
    fault = FAULTS[name]
    if fault.switched:
        tool = shlex.join([sys.executable, str(TOOL), "--name", board_of(site).folder.name])
        site.beside["power"] = {"command": {"off": f"{tool} kill", "on": f"{tool} on"}}
    run = site.run()
    site.measuring(run)
    kept = site.journalled()
    fault.cause(site)
    ended = site.finish(run, 600)
    assert ended.status == 0, ended.said
    assert re.search(fault.says, ended.said, re.M), ended.said
    assert site.failures() <= fault.failures, ended.said
    site.check_nothing_left()
    assert site.numbers().keys() == undisturbed.numbers().keys()
    site.check_times()
    site.check_kept(kept)


def test_a_runner_that_takes_all_memory_fails_alone_and_says_so(site: BoardSite) -> None:
    board = board_of(site)
    place = "/home/edge/.local/lib/python3.11/site-packages"
    board.ssh(
        f"mkdir -p {place} && printf %s {shlex.quote(HOG)} > {place}/usercustomize.py", user="edge"
    )
    ended = site.finish(site.run(), 900)
    assert ended.status == 1, ended.said
    assert re.search(
        r"runner run_onnxruntime\.py was killed by SIGKILL .*out of memory", ended.said
    ), ended.said
    assert site.failures() == {"out of memory"}
    site.check_nothing_left()


def test_two_hosts_that_are_killed_leave_the_board_free(site: BoardSite) -> None:
    for _ in range(2):
        run = site.run()
        site.measuring(run, rounds=1)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        assert wait_until(lambda: not site.processes())
    assert site.finish(site.run(), 600).status == 0
