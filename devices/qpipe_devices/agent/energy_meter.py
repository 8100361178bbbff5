"""What a round costs in energy: sensors or a meter, sampled by a thread, summed over a window."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple  # noqa: UP035  (Python 3.8 on the board)

from .failures import AgentError
from .power_sensors import Rail, rails

IDLE_S = 2.0  # of rest, where nobody says
LATE_S = 3.0  # an external meter may tell what was so much later
# kills its group, and so the command, when whoever started it is gone
METER = "({command}\n) < /dev/null & exec >&-; cat > /dev/null; kill -KILL 0"

Samples = List[Tuple[int, float]]  # noqa: UP006  (monotonic ns, watts or joules so far)


class Meter:
    """Samples until it is stopped. One list a rail; a reading that fails ends it, and is told by `joules`."""

    def __init__(self, asked: Mapping[str, Any], root: Path) -> None:
        self.period_s = float(asked.get("period_s", 0.02))
        self.error = ""
        self.stopped = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        if asked.get("command"):
            self.source = "command"
            self.rails = [Rail(str(asked.get("unit", "W")), float)]
            self.is_counter = asked.get("unit") == "J"
            target: Callable[[], None] = self._listen
            self.process = _start(asked["command"])
        else:
            self.source, self.rails = rails(
                root, asked.get("source", "auto"), asked.get("rails") or ()
            )
            self.is_counter = self.source == "rapl"
            target = self._poll
            for rail in self.rails:
                rail.read()  # what cannot be read is said now
        self.samples: list[Samples] = [[] for _ in self.rails]
        self.thread = threading.Thread(target=target, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """No sample comes after this; the command is gone."""
        self.stopped.set()
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.thread.join(5)
        for pipe in (self.process.stdin, self.process.stdout) if self.process else ():
            if pipe:
                pipe.close()

    def joules(self, start: int, end: int) -> float:
        """Energy between two moments (monotonic ns), of all rails; AgentError where it was not sampled then."""
        deadline = time.monotonic() + LATE_S
        while self._reaches() < end and self.thread.is_alive() and time.monotonic() < deadline:
            time.sleep(self.period_s)
        if self.error:
            raise AgentError(self.error)
        if self._reaches() < end or any(not own or own[0][0] > start for own in self.samples):
            raise AgentError(
                f"energy: {self.source} gave no values for the whole of a round; see that it tells more"
            )
        summed = _counted if self.is_counter else _integrated
        return sum(summed(list(own), start, end) for own in self.samples)

    def updates(self, start: int, end: int) -> int:
        """How many new values the slowest rail had between two moments, by its own word or by their differing."""
        seconds = (end - start) / 1e9
        least = []
        for rail, own in zip(self.rails, self.samples):  # noqa: B905  (Python 3.8)
            inside = [value for at, value in list(own) if start <= at <= end]
            changes = sum(now != was for was, now in zip(inside, inside[1:]))  # noqa: B905, RUF007
            said = min(len(inside), int(seconds / rail.update_s)) if rail.update_s else 0
            lines = len(inside) if self.process else 0  # a meter's every line is a value
            least.append(max(changes, said, lines))
        return min(least)

    def _reaches(self) -> int:
        return min((own[-1][0] if own else 0) for own in self.samples)

    def _poll(self) -> None:
        turns = [0.0] * len(self.rails)  # joules that were counted before the counter began anew
        try:
            while not self.stopped.is_set():
                for index, rail in enumerate(self.rails):
                    value = rail.read() + turns[index]
                    own = self.samples[index]
                    if rail.wraps_at and own and value < own[-1][1]:
                        turns[index] += rail.wraps_at
                        value += rail.wraps_at
                    own.append((time.monotonic_ns(), value))
                self.stopped.wait(self.period_s)
        except AgentError as error:
            self.error = str(error)

    def _listen(self) -> None:
        assert self.process
        assert self.process.stdout
        for line in self.process.stdout:
            numbers = re.findall(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", line)
            if numbers:
                self.samples[0].append((time.monotonic_ns(), float(numbers[-1])))


def _start(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", METER.format(command=command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _at(samples: Samples, moment: int) -> float:
    """The value at a moment between two samples, on the line between them."""
    for (before, low), (after, high) in zip(samples, samples[1:]):  # noqa: B905, RUF007  (Python 3.8)
        if before <= moment <= after:
            return (
                low
                if after == before
                else low + (high - low) * (moment - before) / (after - before)
            )
    return samples[-1][1]


def _counted(samples: Samples, start: int, end: int) -> float:
    return _at(samples, end) - _at(samples, start)


def _integrated(samples: Samples, start: int, end: int) -> float:
    """Watts over time, by trapezoids."""
    inside = [(at, value) for at, value in samples if start < at < end]
    points = [(start, _at(samples, start)), *inside, (end, _at(samples, end))]
    pairs = zip(points, points[1:])  # noqa: B905, RUF007  (Python 3.8)
    return sum((after - before) / 1e9 * (low + high) / 2 for (before, low), (after, high) in pairs)


# ---- one round


class RoundEnergy:
    """The energy of one round: how much the device takes when idle, and how much while it works."""

    def __init__(self, asked: Mapping[str, Any], root: Path) -> None:
        self.asked = asked
        self.meter = Meter(asked, root)
        self.idle_w = 0.0
        time.sleep(self.meter.period_s)
        deadline = time.monotonic() + LATE_S
        while (
            not all(self.meter.samples)
            and self.meter.thread.is_alive()
            and time.monotonic() < deadline
        ):
            time.sleep(self.meter.period_s)

    def rested(self, start: int, end: int) -> None:
        """Between these two moments (monotonic ns) the device was idle, and all was set as for the round."""
        self.idle_w = self.meter.joules(start, end) / ((end - start) / 1e9)

    def told(self, timed: Mapping[str, Any], batch: int) -> Dict[str, Any]:  # noqa: UP006
        """Of the window in which the values were taken; AgentError where the sensor is too slow for it."""
        window = timed.get("window_ns")
        if not window:
            raise AgentError(
                "energy: this build's runner does not say when it took its values (window_ns)",
                "configuration",
            )
        start, end = window
        joules = self.meter.joules(start, end)
        updates = self.meter.updates(start, end)
        least = int(self.asked.get("updates", 20))
        if updates < least:
            had = f"{self.meter.source} had {updates} new values in {(end - start) / 1e9:.2g} s"
            raise AgentError(
                f"energy: {had}, {least} are needed; let rounds last longer (round_s)",
                "configuration",
            )
        return {
            "joules": joules,
            "seconds": (end - start) / 1e9,
            "inferences": len(timed["values_ns"]) * batch,
            "idle_w": self.idle_w,
            "source": self.meter.source,
            "rails": [rail.name for rail in self.meter.rails],
            "updates": updates,
            "period_s": self.meter.period_s,
        }
