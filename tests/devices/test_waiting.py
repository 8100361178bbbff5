"""A device that another run is at is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpipe.engine.device_health import wait_for_turn
from qpipe.errors import BusyError
from qpipe_devices import local
from qpipe_devices.null import NullDevice


class BusyDevice(NullDevice):
    """A device that another run is at until a moment of its clock, which only pauses move."""

    def __init__(self, free_at: float) -> None:
        super().__init__("board", "x86_64", 1.0)
        self.free_at, self.now = free_at, 0.0

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def capabilities(self):
        if self.now < self.free_at:
            raise BusyError("board: busy: held by them@there")
        return super().capabilities()


def test_a_run_waits_for_a_device_in_use_and_says_whose_it_is(tmp_path: Path) -> None:
    holder, waiting = local("here", folder=tmp_path), local("here", folder=tmp_path)
    holder.capabilities()
    messages: list[str] = []
    assert wait_for_turn(waiting, messages.append, pause=lambda _: holder.close()).cores > 0
    waiting.close()
    (message,) = messages
    assert message.startswith("here: busy: held by ")
    assert message.endswith("; waiting")


def test_who_waits_long_says_every_minute_for_how_long() -> None:
    device = BusyDevice(free_at=150)
    messages: list[str] = []
    wait_for_turn(device, messages.append, pause=device.pause, clock=device.clock)
    busy = "board: busy: held by them@there; waiting"
    assert messages == [busy, f"{busy} for 1 min", f"{busy} for 2 min"]
    assert device.now == 150


def test_patience_ends() -> None:
    device = BusyDevice(free_at=150)
    with pytest.raises(BusyError, match=r"held by them@there; waited 2 min$"):
        wait_for_turn(device, lambda _: None, 100, pause=device.pause, clock=device.clock)
    assert device.now == 100
