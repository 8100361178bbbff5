"""The energy of a round by a meter at the host; the device's windows are in the host's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from qpipe.errors import DeviceError, Failure
from qpipe.types import EnergyOptions
from qpipe_devices.agent.energy_meter import RoundEnergy
from qpipe_devices.agent.failures import AgentError

if TYPE_CHECKING:
    from qpipe_devices.agent.messages import RoundAnswer

CLOCK_READINGS = 7  # of the device's clock; the quickest answer is the most exact
SLOWEST_S = 0.05  # a connection that takes longer for an answer is too slow


class ClockReading(NamedTuple):
    """How long an answer took, and how far the host's clock is ahead; both in ns."""

    took_ns: int
    ahead_ns: int


def measure_round(
    device: str,
    options: EnergyOptions,
    *,
    take_round: Callable[[], RoundAnswer],
    read_clock: Callable[[], int],
) -> RoundAnswer:
    """Return a round with its energy as PROTOCOL.md has it; the meter's command runs here.

    Idle power is what the meter shows while the device rests in the round, all set as while it
    works: `take_round` asks for that by `rest_s`. `read_clock` asks the device for its monotonic
    clock in ns, of which both windows are. The offset of the clocks is that of the quickest of a
    few answers, right to half the time the answer took.

    Raise DeviceError where the meter has too few values, or the connection is too slow.
    """
    try:
        energy = RoundEnergy(options, Path("/"))
        try:
            answer = take_round()
            ahead_ns = _host_clock_ahead_ns(device, read_clock)
            rest_start, rest_end = _shifted(answer["rest_ns"], ahead_ns)
            energy.set_idle(rest_start, rest_end)
            in_host_time = answer.copy()
            if "window_ns" in answer:
                in_host_time["window_ns"] = _shifted(answer["window_ns"], ahead_ns)
            reading = energy.reading(in_host_time, answer["batch"])
            return {**answer, "energy": reading}
        finally:
            energy.meter.stop()
    except AgentError as error:
        raise DeviceError(f"{device}: {error}", failure=cast("Failure", error.failure)) from error


def _shifted(moments: Sequence[int], nanoseconds: int) -> list[int]:
    return [moment + nanoseconds for moment in moments]


def _host_clock_ahead_ns(device: str, read_clock: Callable[[], int]) -> int:
    """Return how far this host's monotonic clock is ahead of the device's, in ns."""
    quickest = min(_read_clock_once(read_clock) for _ in range(CLOCK_READINGS))
    if quickest.took_ns > SLOWEST_S * 1e9:
        raise DeviceError(
            f"{device}: energy: reading the clock of the device takes at least "
            f"{quickest.took_ns / 1e6:.0f} ms, too long for a meter at the host; "
            "run the command on the device, or use a faster connection",
            failure="timeout",
        )
    return quickest.ahead_ns


def _read_clock_once(read_clock: Callable[[], int]) -> ClockReading:
    before = time.monotonic_ns()
    device_clock = read_clock()
    after = time.monotonic_ns()
    return ClockReading(after - before, (before + after) // 2 - device_clock)
