"""What a round may ask of a device: governor, cores, threads, batch, cool start, sustained load; by a real agent."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import boards_sysfs as boards
import numpy as np
import onnx
import onnx.parser
import pytest

import qpipe
from qpipe_devices import local
from qpipe_devices.agent import settings
from small_build import nothing, write_build

# while it is timed it writes the files that acts.json says, notes what it sees of others, and takes a moment
ACTOR = """
import json, os, sys, time
from pathlib import Path
def answer(**fields):
    asked = json.loads(sys.stdin.buffer.readline())
    sys.stdin.buffer.read(sum(each[3] for each in asked["arrays"]))
    return lambda: print(json.dumps({**fields, "arrays": []}), flush=True)
answer(load_ms=1, runtime_mb=1, inputs=["image"], outputs=[])()
reply = answer(first_ms=1, warmups=1, values_ns=[1000000], peak_mb=2)
acts = json.loads(Path("acts.json").read_text())
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
seen = {path: Path(path).read_text().strip() for path in acts["read"]}
Path(acts["note"]).write_text(json.dumps({"seen": seen, "cores": cores}))
for path, text in acts["write"].items():
    Path(path).write_text(text)
time.sleep(acts["seconds"])
reply()
sys.stdin.read()
"""
GOVERNOR = f"{boards.CPU}/cpufreq/policy0/scaling_governor"
ASKED = {"warmup_s": 0, "values": 1, "budget_s": 5}


class Board:
    """A local device with a tree of its own, and a runner that acts on it."""

    def __init__(self, folder: Path, tree) -> None:
        self.folder, self.root = folder, tree(folder / "tree")
        self.device = local("board", folder=folder / "board", sysfs=self.root)
        pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
        how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", pixels)], how)
        self.samples = self.device.store(samples.folder, nothing)

    def round(self, write: dict[str, str] | None = None, seconds: float = 0, **options: object) -> qpipe.Round:
        acts = {
            "read": [str(self.root / GOVERNOR)], "note": str(self.folder / "note"), "seconds": seconds,
            "write": {str(self.root / name): text for name, text in (write or {}).items()},
        }  # fmt: skip
        files = {"run_actor.py": ACTOR, "acts.json": json.dumps(acts)}
        build = write_build(self.folder / f"build{time.monotonic_ns()}", "run_actor.py", files)
        stored = self.device.store(build.folder, nothing)
        return self.device.round(stored, self.samples, **ASKED, options=options)

    @property
    def note(self):
        return json.loads((self.folder / "note").read_text())

    @property
    def governor(self) -> str:
        return (self.root / GOVERNOR).read_text().strip()


@pytest.fixture
def board(tmp_path):
    made = Board(tmp_path, boards.pi4)
    yield made
    made.device.close()


def test_a_round_brings_what_was_seen_before_and_after_it(board):
    taken = board.round({f"{boards.THERMAL}/thermal_zone0/temp": "55000"})
    assert taken.invalid is None
    assert taken.environment["before"]["temperature_c"] == {"cpu-thermal": 48.212}
    assert taken.environment["after"]["temperature_c"] == {"cpu-thermal": 55.0}


def test_a_round_during_which_the_board_throttled_is_invalid(board):
    taken = board.round({"sys/devices/platform/soc/soc:firmware/get_throttled": "80008"})
    assert taken.invalid == "throttled: soft temperature limit (get_throttled 0x80008)"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores count")
def test_a_round_during_which_others_kept_the_cores_busy_is_invalid(board):
    core = min(os.sched_getaffinity(0))
    boards.write(board.root, {"proc/stat": f"cpu{core} 0 0 0 5000 0 0 0 0 0 0"})
    busy = {"proc/stat": f"cpu{core} 1000 0 0 5000 0 0 0 0 0 0"}  # for some seconds, it says, in this short one
    taken = board.round(busy, seconds=0.3, affinity=[core], max_load=0.3)
    assert taken.invalid == f"load: other processes took more than 30 % of core {core}"
    assert taken.environment["others"] > 1
    quiet = board.round(busy, seconds=0.3, affinity=[core], max_load=0.3)
    assert (quiet.invalid, quiet.environment["others"]) == (None, 0)


def test_the_governor_is_set_for_the_round_and_put_back(board):
    taken = board.round(governor="performance")
    assert taken.environment["governor"] == "performance"
    assert list(board.note["seen"].values()) == ["performance"]
    assert (board.governor, taken.invalid) == ("ondemand", None)
    assert not (board.folder / "board" / "restore.json").exists()


def test_a_governor_that_is_not_there_is_told_and_not_fatal(tmp_path):
    root = boards.pi4(tmp_path / "tree")
    (root / GOVERNOR).unlink()
    (root / GOVERNOR).mkdir()  # whoever writes it is refused, root too
    with settings.Settings(tmp_path).applied({"governor": "turbo"}, root) as told:
        pass
    expected = "governor turbo was not set (policy0: there is powersave ondemand performance)"
    assert told == {"governor": "unknown", "unlocked": expected}


def leave_behind(board: Board) -> None:
    """What a round that is cut leaves: the governor set, and the file that remembers."""
    path = board.root / GOVERNOR
    (board.folder / "board" / "restore.json").write_text(json.dumps({str(path): "ondemand"}), encoding="utf-8")
    path.write_text("performance", encoding="utf-8")


def test_the_governor_is_put_back_when_the_host_goes_away(board):
    leave_behind(board)
    board.device.close()
    assert board.governor == "ondemand"


def test_the_next_agent_puts_back_what_a_killed_one_left(board):
    leave_behind(board)
    os.kill(board.device._conversation.process.process.pid, signal.SIGKILL)
    board.device.close()
    assert board.governor == "performance"
    board.device.capabilities()
    assert board.governor == "ondemand"


def test_nothing_but_governors_is_put_back(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "restore.json").write_text(json.dumps({str(other): "theirs"}))
    settings.Settings(tmp_path)
    assert other.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_round_runs_on_the_cores_that_are_asked_for(board):
    core = max(os.sched_getaffinity(0))
    taken = board.round(affinity=[core])
    assert (taken.environment["affinity"], board.note["cores"]) == ([core], [core])
    board.round()
    assert board.note["cores"] == sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_core_that_is_not_there_is_named(board):
    with pytest.raises(qpipe.DeviceError, match=r"^board: affinity: there is no core 4000 to run on; there is 0"):
        board.round(affinity=[0, 4000])


def test_a_round_starts_once_the_board_is_cool(board):
    zone = board.root / f"{boards.THERMAL}/thermal_zone0/temp"
    zone.write_text("71000")
    hot = board.round(cool_to_c=60, cool_s=0.3)
    assert hot.environment["too_warm"] == "71 C, warmer than 60 C after 0 s"
    zone.write_text("59000")
    cool = board.round(cool_to_c=60, cool_s=100)
    assert (cool.environment["start_c"], cool.environment["waited_s"]) == (59.0, 0.0)


def test_options_that_a_runner_does_not_know_are_told(board):
    with pytest.raises(qpipe.DeviceError, match=r"^board: runner run_actor.py does not know threads; leave it out"):
        board.round(threads=2)
    with pytest.raises(qpipe.DeviceError, match=r"^board: runner run_actor.py does not know sustained_s; leave it out"):
        board.round(sustained_s=0.1)


def test_a_fixed_batch_axis_is_told(board):
    expected = (
        r"^board: batch 4: the batch axis of image is 1 in this build; import the network with a batch axis of no"
    )
    with pytest.raises(qpipe.DeviceError, match=expected):
        board.round(batch=4)


MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] image) => (float[n, 192] flat) { flat = Flatten (image) }
"""


@pytest.fixture
def free(board):
    """A build for ONNX Runtime whose batch axis is free, on a board."""
    build = write_build(board.folder / "free")
    onnx.save(onnx.parser.parse_model(MODEL), build.folder / "model.onnx")
    own = {**build.manifest, "inputs": [{"name": "image", "dtype": "float32", "shape": ["n", 3, 8, 8]}]}
    build = qpipe.Build.write(build.folder, own)
    return board.device.store(build.folder, nothing)


def test_onnxruntime_takes_batch_threads_and_sustained_load(board, free):
    options = {"batch": 4, "threads": 2, "sustained_s": 1.5}
    taken = board.device.round(free, board.samples, warmup_s=0.05, values=5, budget_s=5, options=options)
    assert (taken.batch, len(taken.values_ms)) == (4, 5)
    assert [round(end) for end, _, _ in taken.sustained] == [1, 2]
    assert all(median > 0 and count > 10 for _, median, count in taken.sustained)
    assert taken.steady is not None


def test_peaks_of_loading_and_of_running_are_told_apart(board, free):
    taken = board.device.round(free, board.samples, warmup_s=0, values=2, budget_s=5)
    assert taken.load_peak_mb > taken.runtime_mb
    assert taken.peak_mb == max(taken.load_peak_mb, taken.run_peak_mb)
    assert taken.steady is None
