"""A meter at the host for a device whose clock is another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import DeviceError
from qpipe_devices.host_meter import metered

BEHIND = 1_000 * 10**9  # the device's clock, in ns


def clock() -> int:
    return time.monotonic_ns() - BEHIND


def meter(power: Path) -> dict[str, Any]:
    """Tells, as watts, what is in a file."""
    power.write_text("2\n")
    return {"command": f"while :; do cat {power}; sleep 0.005; done", "idle_s": 0.2, "period_s": 0.005, "updates": 5}


def worker(power: Path) -> dict[str, Any]:
    """A round in whose window the device takes 6 W, 3 W at rest in it, and 2 W before and after it."""
    write(power, 3)
    time.sleep(0.1)
    rested = clock()
    time.sleep(0.3)
    rest = [rested, clock()]
    time.sleep(0.1)
    write(power, 6)
    time.sleep(0.1)  # what the meter told before is over
    start = clock()
    time.sleep(0.4)
    end = clock()
    time.sleep(0.1)
    write(power, 2)
    time.sleep(0.3)
    return {"rest_ns": rest, "window_ns": [start, end], "values_ns": [10**6] * 40, "batch": 2}


def write(power: Path, watts: float) -> None:
    aside = power.with_suffix(".new")
    aside.write_text(f"{watts}\n")
    aside.replace(power)


def test_the_window_is_found_though_the_clocks_differ(tmp_path):
    power = tmp_path / "power"
    told = metered("board", meter(power), lambda: worker(power), clock)["energy"]
    assert told["joules"] == pytest.approx(6 * told["seconds"], rel=1e-6)
    assert told["idle_w"] == pytest.approx(3)
    assert (told["inferences"], told["source"]) == (80, "command")
    assert told["seconds"] == pytest.approx(0.4, abs=0.2)


def test_a_line_that_is_too_slow_for_a_clock_is_refused(tmp_path):
    def slow() -> int:
        time.sleep(0.06)
        return clock()

    power = tmp_path / "power"
    expected = r"^board: energy: its clock is told no sooner than in \d+ ms, too late for a meter at the host; run the"
    with pytest.raises(DeviceError, match=expected):
        metered("board", meter(power), lambda: worker(power), slow)


def test_a_round_that_fails_leaves_no_meter_behind(tmp_path):
    def fails() -> dict[str, Any]:
        raise DeviceError("board: it died")

    told = tmp_path / "told"
    power = {"command": f"while :; do date +%N >> {told}; echo 2; sleep 0.01; done", "idle_s": 0.1, "updates": 1}
    with pytest.raises(DeviceError, match="it died"):
        metered("board", power, fails, clock)
    size = told.stat().st_size
    time.sleep(0.1)
    assert told.stat().st_size == size
