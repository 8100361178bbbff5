"""A meter at the host for a device whose clock is another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import DeviceError
from qpipe_devices import host_energy_meter
from qpipe_devices.agent.energy_meter import Meter, RoundEnergy
from qpipe_devices.host_energy_meter import measure_round
from waiting import wait_until

BEHIND = 1_000 * 10**9  # the device's clock, in ns


def clock() -> int:
    return time.monotonic_ns() - BEHIND


def meter(power: Path) -> dict[str, Any]:
    """Tells, as watts, what is in a file."""
    power.write_text("2\n")
    command = f"while :; do cat {power}; sleep 0.005; done"
    return {"command": command, "period_s": 0.005, "updates": 5}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """A round in whose window the device takes 6 W, 3 W at rest in it, and 2 W before and after it."""
    power = tmp_path / "power"
    meters: list[Meter] = []

    class Watched(RoundEnergy):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            meters.append(self.meter)

    monkeypatch.setattr(host_energy_meter, "RoundEnergy", Watched)

    def newest() -> tuple[int, float]:
        return meters[0].samples[0][-1]

    def take(watts: float) -> list[int]:
        """A window in which the meter tells nothing else, ten times at least."""
        write(power, watts)
        assert wait_until(lambda: newest()[1] == watts)
        start = clock()
        count = len(meters[0].samples[0])
        assert wait_until(lambda: len(meters[0].samples[0]) >= count + 10)
        end = clock()
        assert wait_until(lambda: newest()[0] > end + BEHIND)
        return [start, end]

    def work() -> dict[str, Any]:
        rest = take(3)
        window = take(6)
        write(power, 2)
        return {"rest_ns": rest, "window_ns": window, "values_ns": [10**6] * 40, "batch": 2}

    return work


def write(power: Path, watts: float) -> None:
    aside = power.with_suffix(".new")
    aside.write_text(f"{watts}\n")
    aside.replace(power)


def test_the_window_is_found_though_the_clocks_differ(worker, tmp_path):
    answer = measure_round("board", meter(tmp_path / "power"), take_round=worker, read_clock=clock)
    energy = answer["energy"]
    start, end = answer["window_ns"]
    assert energy["joules"] == pytest.approx(6 * energy["seconds"], rel=1e-6)
    assert energy["idle_w"] == pytest.approx(3)
    assert (energy["inferences"], energy["source"]) == (80, "command")
    assert energy["seconds"] == pytest.approx((end - start) / 1e9)


def test_a_line_that_is_too_slow_for_a_clock_is_refused(worker, tmp_path):
    def slow() -> int:
        time.sleep(0.06)
        return clock()

    expected = r"^board: energy: reading the clock of the device takes at least \d+ ms, too long for a meter at the host; run the"
    with pytest.raises(DeviceError, match=expected):
        measure_round("board", meter(tmp_path / "power"), take_round=worker, read_clock=slow)


def test_a_round_that_fails_leaves_no_meter_behind(tmp_path):
    def fails() -> dict[str, Any]:
        raise DeviceError("board: it died")

    told = tmp_path / "told"
    power = {"command": f"while :; do date +%N >> {told}; echo 2; sleep 0.01; done", "updates": 1}
    with pytest.raises(DeviceError, match="it died"):
        measure_round("board", power, take_round=fails, read_clock=clock)
    size = told.stat().st_size
    time.sleep(0.1)
    assert told.stat().st_size == size
