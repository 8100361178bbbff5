"""What a round may ask of a device: governor, cores, threads, batch, cool start, sustained load; by a real agent."""

from __future__ import annotations

import os
import re

import boards_sysfs as boards
import onnx
import onnx.parser
import pytest

import qpipe
from qpipe_devices.agent import round_settings
from small_build import nothing, write_build


def test_a_round_brings_what_was_seen_before_and_after_it(board):
    taken = board.round({f"{boards.THERMAL}/thermal_zone0/temp": "55000"})
    assert taken.invalid is None
    assert taken.environment["before"]["temperature_c"] == {"cpu-thermal": 48.212}
    assert taken.environment["after"]["temperature_c"] == {"cpu-thermal": 55.0}


def test_a_round_during_which_the_board_throttled_is_invalid(board):
    taken = board.round({"sys/devices/platform/soc/soc:firmware/get_throttled": "80008"})
    assert taken.invalid == "throttled: soft temperature limit (get_throttled 0x80008)"


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores count"
)
def test_a_round_during_which_others_kept_the_cores_busy_is_invalid(board):
    core = min(os.sched_getaffinity(0))
    boards.write(board.root, {"proc/stat": f"cpu{core} 0 0 0 5000 0 0 0 0 0 0"})
    busy = {
        "proc/stat": f"cpu{core} 1000 0 0 5000 0 0 0 0 0 0"
    }  # for some seconds, it says, in this short one
    taken = board.round(busy, seconds=0.3, affinity=[core], max_load=0.3)
    assert taken.invalid == f"load: other processes took more than 30 % of core {core}"
    assert taken.environment["others"] > 1
    quiet = board.round(busy, seconds=0.3, affinity=[core], max_load=0.3)
    assert (quiet.invalid, quiet.environment["others"]) == (None, 0)


def test_a_round_starts_once_the_board_is_cool(board):
    zone = board.root / f"{boards.THERMAL}/thermal_zone0/temp"
    zone.write_text("71000")
    hot = board.round(cool_to_c=60, cool_s=0.3)
    assert re.fullmatch(r"71 C, warmer than 60 C after \d+ s", hot.environment["too_warm"])
    zone.write_text("59000")
    cool = board.round(cool_to_c=60, cool_s=100)
    assert cool.environment["start_c"] == 59
    assert cool.environment["waited_s"] < round_settings.POLL_S  # it looked once


def test_options_that_a_runner_does_not_know_are_told(board):
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: runner run_actor.py does not support threads; leave it out",
    ):
        board.round(threads=2)
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^board: runner run_actor.py does not support sustained_s; leave it out",
    ):
        board.round(sustained_s=0.1)


def test_a_fixed_batch_axis_is_told(board):
    expected = r"^board: batch 4: the batch axis of image is 1 in this build; compile it with onnxruntime: {dynamic_batch: true}"
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
    own = {
        **build.manifest,
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["n", 3, 8, 8]}],
    }
    build = qpipe.Build.write(build.folder, own)
    return board.device.store(build.folder, nothing)


def test_onnxruntime_takes_batch_threads_and_sustained_load(board, free):
    options = {"batch": 4, "threads": 2, "sustained_s": 1.5}
    taken = board.device.round(
        free, board.samples, warmup_s=0.05, values=5, budget_s=5, options=options
    )
    assert (taken.batch, len(taken.values_ms)) == (4, 5)
    assert [round(end) for end, _, _ in taken.sustained] == [1, 2]
    assert all(median > 0 and count > 10 for _, median, count in taken.sustained)
    assert taken.steady is not None


def test_peaks_of_loading_and_of_running_are_told_apart(board, free):
    taken = board.device.round(free, board.samples, warmup_s=0, values=2, budget_s=5)
    assert taken.load_peak_mb > taken.runtime_mb
    assert taken.peak_mb == max(taken.load_peak_mb, taken.run_peak_mb)
    assert taken.steady is None
