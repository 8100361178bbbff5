"""The energy of a round: sensors or a meter, sampled by a thread, summed over a window."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .failures import AgentError
from .power_sensors import Rail, select_rails

if TYPE_CHECKING:
    from qpipe.types import EnergyOptions, EnergyReading

    from .messages import TimeAnswer

IDLE_S = 2.0  # of rest, where the options do not say
LATE_S = 3.0  # an external meter may report a value so much later
PERIOD_S = 0.02
FEWEST_UPDATES = 20
NUMBER = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
# kills its own group, and so the command, when its parent is gone
METER_SCRIPT = "({command}\n) < /dev/null & exec >&-; cat > /dev/null; kill -KILL 0"


class PowerSample(NamedTuple):
    """A value of a rail: watts, or joules so far."""

    at: int  # monotonic ns
    value: float


class Meter:
    """A thread that samples each rail until it is stopped.

    An error of a sensor ends it; `joules` raises that error.
    """

    def __init__(self, options: EnergyOptions, root: Path) -> None:
        self.period_s = float(options.get("period_s", PERIOD_S))
        self.error = ""
        self.stopped = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        command = options.get("command")
        if command:
            self.source = "command"
            self.rails = [Rail(str(options.get("unit", "W")), float)]
            self.is_counter = options.get("unit") == "J"
            self.process = start_command_meter(command)
            target = self._sample_command
        else:
            names = options.get("rails") or ()
            self.source, self.rails = select_rails(root, options.get("source", "auto"), names)
            self.is_counter = self.source == "rapl"
            target = self._sample_sensors
            for rail in self.rails:
                rail.read_value()  # raises where a sensor cannot be read
        self.samples: list[list[PowerSample]] = [[] for _ in self.rails]
        self.thread = threading.Thread(target=target, daemon=True)
        self.thread.start()

    def wait_for_first_samples(self) -> None:
        """Wait until each rail has a sample, for LATE_S at most."""
        time.sleep(self.period_s)
        deadline = time.monotonic() + LATE_S
        while not all(self.samples) and self.thread.is_alive() and time.monotonic() < deadline:
            time.sleep(self.period_s)

    def stop(self) -> None:
        """End sampling, and the command."""
        self.stopped.set()
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.thread.join(5)
        if self.process:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    pipe.close()

    def joules(self, start: int, end: int) -> float:
        """Return the energy of all rails between two moments (monotonic ns).

        Raise AgentError where they were not sampled throughout.
        """
        deadline = time.monotonic() + LATE_S
        while self._last_sample() < end and self.thread.is_alive() and time.monotonic() < deadline:
            time.sleep(self.period_s)
        if self.error:
            raise AgentError(self.error)
        if self._last_sample() < end or self._first_sample() > start:
            raise AgentError(
                f"energy: {self.source} gave no values for a part of a round; "
                "it must give values all the time"
            )
        energy = _counter_difference if self.is_counter else integrate_power
        return sum(energy(list(samples), start, end) for samples in self.samples)

    def updates(self, start: int, end: int) -> int:
        """Return how many new values the slowest rail had between two moments (monotonic ns).

        Values that differ are new. Where a sensor reports its interval, its values may be equal;
        every line of a command is a new value.
        """
        seconds = (end - start) / 1e9
        counts = []
        for rail, samples in zip(self.rails, self.samples):  # noqa: B905  (Python 3.8)
            values = [sample.value for sample in list(samples) if start <= sample.at <= end]
            count = _count_changes(values)
            if rail.update_s:
                count = max(count, min(len(values), int(seconds / rail.update_s)))
            if self.process:
                count = max(count, len(values))
            counts.append(count)
        return min(counts)

    def _last_sample(self) -> int:
        """Return the moment until which all rails were sampled; 0 before the first sample."""
        return min((samples[-1].at if samples else 0) for samples in self.samples)

    def _first_sample(self) -> int:
        """Return the moment since which all rails were sampled."""
        return max(samples[0].at for samples in self.samples)

    def _sample_sensors(self) -> None:
        offsets = [0.0] * len(self.rails)  # joules that were counted before a counter restarted
        try:
            while not self.stopped.is_set():
                for index, rail in enumerate(self.rails):
                    value = rail.read_value() + offsets[index]
                    samples = self.samples[index]
                    if rail.wraps_at and samples and value < samples[-1].value:
                        offsets[index] += rail.wraps_at
                        value += rail.wraps_at
                    samples.append(PowerSample(time.monotonic_ns(), value))
                self.stopped.wait(self.period_s)
        except AgentError as error:
            self.error = str(error)

    def _sample_command(self) -> None:
        assert self.process
        assert self.process.stdout
        for line in self.process.stdout:
            numbers = NUMBER.findall(line)
            if numbers:
                sample = PowerSample(time.monotonic_ns(), float(numbers[-1]))
                self.samples[0].append(sample)


def start_command_meter(command: str) -> subprocess.Popen[bytes]:
    """Start the command of a meter; it ends with this process."""
    return subprocess.Popen(
        ["sh", "-c", METER_SCRIPT.format(command=command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def integrate_power(samples: Sequence[PowerSample], start: int, end: int) -> float:
    """Return watts integrated over time, by trapezoids, in joules."""
    inside = [sample for sample in samples if start < sample.at < end]
    first = PowerSample(start, _interpolate(samples, start))
    last = PowerSample(end, _interpolate(samples, end))
    points = [first, *inside, last]
    joules = 0.0
    for low, high in zip(points, points[1:]):  # noqa: B905, RUF007  (Python 3.8)
        joules += (high.at - low.at) / 1e9 * (low.value + high.value) / 2
    return joules


def _counter_difference(samples: Sequence[PowerSample], start: int, end: int) -> float:
    return _interpolate(samples, end) - _interpolate(samples, start)


def _interpolate(samples: Sequence[PowerSample], moment: int) -> float:
    """Return the value at a moment between two samples, on the line between them."""
    for low, high in zip(samples, samples[1:]):  # noqa: B905, RUF007  (Python 3.8)
        if low.at <= moment <= high.at:
            if high.at == low.at:
                return low.value
            fraction = (moment - low.at) / (high.at - low.at)
            return low.value + (high.value - low.value) * fraction
    return samples[-1].value


def _count_changes(values: Sequence[float]) -> int:
    pairs = zip(values, values[1:])  # noqa: B905, RUF007  (Python 3.8)
    return sum(value != previous for previous, value in pairs)


# ---- one round


class RoundEnergy:
    """The energy of one round: what the device takes when idle, and while it works."""

    def __init__(self, options: EnergyOptions, root: Path) -> None:
        self.options = options
        self.meter = Meter(options, root)
        self.idle_w = 0.0
        self.meter.wait_for_first_samples()

    def set_idle(self, start: int, end: int) -> None:
        """Take the time between two moments (monotonic ns) as idle, all set as for the round."""
        self.idle_w = self.meter.joules(start, end) / ((end - start) / 1e9)

    def reading(self, answer: TimeAnswer, batch: int) -> EnergyReading:
        """Return the energy of the window in which a runner took its values.

        Raise AgentError where the sensor is too slow for it.
        """
        window = answer.get("window_ns")
        if not window:
            raise AgentError(
                "energy: the runner of this build does not report when it took its values "
                "(window_ns)",
                failure="configuration",
            )
        start, end = window
        seconds = (end - start) / 1e9
        joules = self.meter.joules(start, end)
        updates = self.meter.updates(start, end)
        fewest = int(self.options.get("updates", FEWEST_UPDATES))
        if updates < fewest:
            raise AgentError(
                f"energy: {self.meter.source} gave {updates} new values in {seconds:.2g} s, "
                f"at least {fewest} are needed; make rounds longer (round_s)",
                failure="configuration",
            )
        return {
            "joules": joules,
            "seconds": seconds,
            "inferences": len(answer["values_ns"]) * batch,
            "idle_w": self.idle_w,
            "source": self.meter.source,
            "rails": [rail.name for rail in self.meter.rails],
            "updates": updates,
            "period_s": self.meter.period_s,
        }
