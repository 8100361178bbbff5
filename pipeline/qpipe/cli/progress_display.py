"""The progress of a run on standard error: lanes of host and devices on a terminal, or lines.

Off a terminal there is a line for each step that ends, and one a minute on what is running.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qpipe import Event
from qpipe.errors import printable

MAX_SILENCE_S = 60.0  # where there is no terminal, a line is printed at least so often
# skipped steps with one cause are reported together, once no more come for so long
SKIPPED_DELAY_S = 0.5
POLL_S = 0.5
BAR_WIDTH = 24
REFRESHES_PER_S = 4
BYTES_PER_MB = 1e6
KB_PER_GB = 1e6
HOST = "host"  # the lane of steps that run on no device
MEMORY = Path("/proc/meminfo")


def open_display(*, is_quiet: bool = False) -> ProgressDisplay:
    """Return the display that fits standard error; a quiet one shows nothing."""
    console = Console(stderr=True, quiet=is_quiet)
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


def describe_progress(event: Event) -> str:
    """Return progress in words: done of total, rate, time left."""
    if not event.done:
        return f"{event.seconds:.0f} s"
    scale = BYTES_PER_MB if event.unit == "B" else 1
    unit, _, note = event.unit.partition(", ")
    unit = "MB" if unit == "B" else unit
    text = f"{event.done / scale:.4g}"
    if event.total:
        text += f"/{event.total / scale:.4g}"
    text += f" {unit}"
    if event.seconds > 0:
        rate = event.done / event.seconds
        text += f", {rate / scale:.3g} {unit}/s"
        if event.total:
            remaining_s = (event.total - event.done) / rate
            text += f", {remaining_s:.0f} s left"
    return f"{text}, {note}" if note else text


def describe_ending(event: Event) -> str:
    """Return how a step ended, in a line."""
    state = "failed, will be retried" if event.what == "retry" else event.what
    text = f"{event.step}: {state}"
    if event.what in ("done", "failed", "retry"):
        text += f" ({event.seconds:.1f} s)"
    if event.message:
        text += f": {event.message}"
    return text


class SkippedSteps:
    """Skipped steps that were not reported yet, by cause: many are skipped at once."""

    def __init__(self) -> None:
        self.steps_by_cause: dict[str, list[str]] = {}
        self.last_added = 0.0

    def add(self, event: Event) -> None:
        """Add a skipped step."""
        self.steps_by_cause.setdefault(event.message, []).append(event.step)
        self.last_added = time.monotonic()

    def take_lines(self, *, at_once: bool = False) -> list[str]:
        """Return a line for each cause and forget its steps; nothing while more may come."""
        if not at_once and time.monotonic() - self.last_added < SKIPPED_DELAY_S:
            return []
        lines = []
        for cause, steps in self.steps_by_cause.items():
            subject = steps[0] if len(steps) == 1 else f"{len(steps)} steps"
            lines.append(f"{subject}: skipped: {cause}")
        self.steps_by_cause = {}
        return lines


class ProgressDisplay(ABC):
    """Shows the events of a run while it is entered; called from several threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lock = threading.Lock()
        self.skipped = SkippedSteps()
        self.ended: set[str] = set()
        self.planned = 0  # steps of the plan; 0 while there is none
        self.running: dict[str, tuple[float, Event]] = {}  # step -> its start, its last event

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def event(self, event: Event) -> None:
        """Show an event."""
        with self.lock:
            if event.is_ending:
                self.ended.add(event.step)
            if event.what == "planned":
                self.planned = int(event.total or 0)
                if not event.done:  # of another run
                    self.ended.clear()
            elif event.what == "skipped":
                self.skipped.add(event)
            elif event.is_ending or event.what == "retry":
                self.remove_step(event.step)
                self.print_line(describe_ending(event))
            elif event.what == "notice":
                self.print_line(f"{event.step}: {event.message}")
            else:
                self.update_step(event)

    def announce(self, text: str) -> None:
        """Print a line about the run as a whole."""
        with self.lock:
            self.print_line(text)

    @property
    def count(self) -> str:
        """How many steps have ended, of how many; empty before there is a plan."""
        return f"{len(self.ended)} of {self.planned} steps" if self.planned else ""

    def print_line(self, text: str) -> None:
        """Print a line, after those of skipped steps."""
        self.print_skipped()
        self.write(text)

    def print_skipped(self, *, at_once: bool = False) -> None:
        """Print the lines of skipped steps that are due."""
        for line in self.skipped.take_lines(at_once=at_once):
            self.write(line)

    def write(self, text: str) -> None:
        """Write a line as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @abstractmethod
    def start(self) -> None:
        """Begin to show."""

    @abstractmethod
    def stop(self) -> None:
        """Print what is left to print, and end."""

    def update_step(self, event: Event) -> None:
        """Show that a step runs, and how far it is."""
        started = time.monotonic()
        if event.step in self.running:
            started, _ = self.running[event.step]
        self.running[event.step] = (started, event)

    def remove_step(self, step: str) -> None:
        """Show a step as running no longer."""
        self.running.pop(step, None)

    def running_events(self) -> list[Event]:
        """Return the last event of each running step; of one without progress, how long it runs."""
        now = time.monotonic()
        return [
            event if event.done else replace(event, seconds=now - started)
            for started, event in list(self.running.values())
        ]


class LineDisplay(ProgressDisplay):
    """Prints a line when a step ends, and one on all running steps after a silence."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        now = time.monotonic()
        self.last_written = now
        self.announced_at = now
        self.announcement = "starting"
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._break_silence, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        self.print_skipped(at_once=True)

    def announce(self, text: str) -> None:
        with self.lock:
            self.announced_at = time.monotonic()
            self.announcement = text
            self.print_line(text)

    def write(self, text: str) -> None:
        self.last_written = time.monotonic()
        super().write(text)

    def _break_silence(self) -> None:
        while not self.stopped.wait(POLL_S):
            with self.lock:
                if time.monotonic() - self.last_written >= MAX_SILENCE_S:
                    self._print_running()

    def _print_running(self) -> None:
        """Print one line on all that is running."""
        now = time.monotonic()
        parts = [self.count] if self.count else []
        for event in self.running_events():
            parts.append(f"{event.step}: {describe_progress(event)}")
        if not self.running:
            parts.append(f"{self.announcement} ({now - self.announced_at:.0f} s)")
        self.print_line("; ".join(parts))


class LiveDisplay(ProgressDisplay):
    """Shows a lane for the host and for each device: its running steps, how far, how fast.

    Lines stay above the lanes.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.started = time.monotonic()
        self.lanes = [HOST]  # in the order in which they were first used
        self.warning = ""  # the last one
        self.live = Live(
            get_renderable=self.render,
            console=console,
            transient=True,
            refresh_per_second=REFRESHES_PER_S,
        )

    def start(self) -> None:
        self.live.start()

    def stop(self) -> None:
        self.print_skipped(at_once=True)
        self.live.stop()

    def event(self, event: Event) -> None:
        if event.what in ("notice", "retry", "failed"):
            self.warning = f"{event.step}: {event.message}"
        super().event(event)

    def update_step(self, event: Event) -> None:
        super().update_step(event)
        lane = lane_of(event)
        if lane not in self.lanes:
            self.lanes.append(lane)

    def render(self) -> RenderableType:
        """Return the lanes; called from a thread of its own, so that it waits for no lock."""
        grid = Table.grid(padding=(0, 2))
        events = self.running_events()
        for lane in list(self.lanes):
            rows = [event for event in events if lane_of(event) == lane]
            if not rows:
                grid.add_row(Text(lane, "bold"), Text("-", "dim"))
            for number, event in enumerate(rows):
                bar = ProgressBar(event.total, event.done, width=BAR_WIDTH, pulse=not event.total)
                name = Text("" if number else lane, "bold")
                grid.add_row(name, Text(event.step), bar, Text(describe_progress(event)))
        parts: list[RenderableType] = [Text(self._headline(), "bold"), grid]
        if self.warning:
            parts.append(
                Text(printable(f"last warning: {self.warning}"), "dim", overflow="ellipsis")
            )
        return Group(*parts)

    def _headline(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        parts = [self.count or "starting", f"{minutes}:{seconds:02d}", free_memory()]
        return ", ".join(filter(None, parts))


def lane_of(event: Event) -> str:
    """Return the device that a step runs on, or that it runs on the host."""
    return event.coordinates.get("device", HOST)


def free_memory() -> str:
    """Return what memory of this machine is free; empty where Linux does not say so."""
    try:
        lines = MEMORY.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    available = float(sizes.get("MemAvailable", 0)) / KB_PER_GB
    total = float(sizes.get("MemTotal", 0)) / KB_PER_GB
    return f"{available:.1f} of {total:.1f} GB of memory free"
