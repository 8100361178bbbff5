"""The cores of a round: those that are asked for, for all the threads of its runner."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
from processes import running

import qpipe
from qpipe_devices.agent import round_settings
from small_build import nothing, write_build

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)


def test_a_round_runs_on_the_cores_that_are_asked_for(board):
    core = max(os.sched_getaffinity(0))
    taken = board.round(affinity=[core])
    assert (taken.environment["affinity"], board.note["cores"]) == ([core], [core])
    board.round()
    assert board.note["cores"] == sorted(os.sched_getaffinity(0))


def test_a_core_that_is_not_there_is_named(board):
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: affinity: core 4000 is not usable; usable cores are 0"
    ):
        board.round(affinity=[0, 4000])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core beside the one it is bound to")
def test_a_core_may_be_asked_for_though_others_are_switched_off(tmp_path, monkeypatch):
    own = os.sched_getaffinity(0)
    highest = max(own)
    monkeypatch.setattr(
        os, "cpu_count", lambda: highest
    )  # it counts those that are switched on: here one less
    try:
        os.sched_setaffinity(0, own - {highest})
        with round_settings.RoundSettings(tmp_path).applied(
            {"affinity": [highest]}, tmp_path
        ) as told:
            assert told == {"affinity": [highest]}
    finally:
        os.sched_setaffinity(0, own)


def cores_of(pid: int) -> set[int]:
    """Those that the threads of a process may run on."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found |= os.sched_getaffinity(int(thread.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for threads in /proc")
@pytest.mark.parametrize(("threads", "taken"), [(0, 1), (3, 3)])
def test_no_thread_of_onnxruntime_leaves_the_cores_that_are_asked_for(threads, taken, board):
    """By its own choice, with 0 threads, it would bind one to each core of the machine."""
    core, seen, over = min(os.sched_getaffinity(0)), set(), threading.Event()
    build = board.device.store(write_build(board.folder / "own").folder, nothing)

    def watch() -> None:
        while not over.wait(0.05):
            for pid in running(board.folder / "board"):
                with contextlib.suppress(OSError):
                    if "run_onnxruntime" in Path(f"/proc/{pid}/cmdline").read_text():
                        seen.update(cores_of(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    options = {"affinity": [core], "threads": threads}
    answer = board.device._request_journalled(
        "round", 60, build=build.path, samples=board.samples.path, warmup_s=0, values=10**6, budget_s=0.5,
        deadline_s=30, options=options,
    )  # fmt: skip
    over.set()
    watcher.join()
    assert seen == {core}
    assert answer["threads"] == taken
    assert "unlocked" not in answer["environment"]


STRAY = """
import os, sys
from qpipe_agent import serving, wire
class Stray:
    inputs, outputs = ["image"], ["y"]
    def __init__(self, request):
        os.sched_setaffinity(0, {cores})
    def infer(self, feeds):
        return []
serving.serve("json", Stray)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core to stray to")
def test_a_runner_that_leaves_the_cores_that_are_asked_for_is_told(board):
    here, there = sorted(os.sched_getaffinity(0))[:2]
    files = {"run_stray.py": STRAY.replace("{cores}", f"{{{there}}}")}
    build = write_build(board.folder / "stray", "run_stray.py", files)
    stored = board.device.store(build.folder, nothing)
    options = {"affinity": [here]}
    taken = board.device.round(
        stored, board.samples, warmup_s=0, values=3, budget_s=1, options=options
    )
    assert (
        taken.environment["unlocked"]
        == f"affinity: the runner bound itself to core {there} as well"
    )
