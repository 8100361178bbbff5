"""The energy of a round by a meter at the host, while the device works: its window is told in the host's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from qpipe.errors import DeviceError, Failure
from qpipe_devices.agent.energy_meter import RoundEnergy
from qpipe_devices.agent.failures import AgentError

ASKS = 7  # for the device's clock: the quickest answer tells it best
LATEST_S = 0.05  # a line that answers no sooner tells no clock


def metered(
    device: str,
    asked: Mapping[str, Any],
    take: Callable[[], Mapping[str, Any]],
    clock: Callable[[], int],
) -> dict[str, Any]:
    """What the round that `take` takes tells, and its energy as PROTOCOL.md has it: the command is run here.

    Idle is what it tells while the device rests in the round, all set as it works: `take` asks for that (`rest_s`).
    `clock` asks the device for its monotonic clock in ns, of which both windows are: by the quickest of a few answers,
    right to half the time that took. DeviceError where the meter tells too little, or the line is too slow for its
    clock.
    """
    try:
        meter = RoundEnergy(asked, Path("/"))
        try:
            answer = take()
            ahead = _ahead(device, clock)
            rest, window = (
                [each + ahead for each in answer.get(of, ())] for of in ("rest_ns", "window_ns")
            )
            meter.rested(*rest)
            return {
                **answer,
                "energy": meter.told({**answer, "window_ns": window}, answer["batch"]),
            }
        finally:
            meter.meter.stop()
    except AgentError as error:
        raise DeviceError(f"{device}: {error}", failure=cast("Failure", error.failure)) from error


def _ahead(device: str, clock: Callable[[], int]) -> int:
    """How far this host's monotonic clock is ahead of the device's, in ns."""
    told = []
    for _ in range(ASKS):
        before = time.monotonic_ns()
        there = clock()
        after = time.monotonic_ns()
        told.append((after - before, (before + after) // 2 - there))
    took, ahead = min(told)
    if took > LATEST_S * 1e9:
        fix = "run the command on the device, or use a quicker line"
        slow = f"energy: its clock is told no sooner than in {took / 1e6:.0f} ms, too late for a meter at the host"
        raise DeviceError(f"{device}: {slow}; {fix}", failure="timeout")
    return ahead
