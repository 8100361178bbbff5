"""The progress of a run on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from qpipe.engine.events import ENDINGS, Event

MAX_SILENCE_S = 4.0  # where there is no terminal, a line is printed at least so often
# skipped steps with one cause are reported together, once no more come for so long
SKIPPED_DELAY_S = 0.5
POLL_S = 0.5
BAR_WIDTH = 24
BYTES_PER_MB = 1e6


def open_display() -> ProgressDisplay:
    """Return the display that fits standard error."""
    console = Console(stderr=True)
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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def event(self, event: Event) -> None:
        """Show an event."""
        with self.lock:
            if event.what == "skipped":
                self.skipped.add(event)
            elif event.what in (*ENDINGS, "retry"):
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

    @abstractmethod
    def update_step(self, event: Event) -> None:
        """Show that a step runs, and how far it is."""

    @abstractmethod
    def remove_step(self, step: str) -> None:
        """Show a step as running no longer."""


class LineDisplay(ProgressDisplay):
    """Prints a line when a step ends, and one for each running step after a silence."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        now = time.monotonic()
        self.running: dict[str, tuple[float, Event]] = {}  # step -> its start, its last event
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

    def update_step(self, event: Event) -> None:
        started = time.monotonic()
        if event.step in self.running:
            started, _ = self.running[event.step]
        self.running[event.step] = (started, event)

    def remove_step(self, step: str) -> None:
        self.running.pop(step, None)

    def _break_silence(self) -> None:
        while not self.stopped.wait(POLL_S):
            with self.lock:
                if time.monotonic() - self.last_written >= MAX_SILENCE_S:
                    self._print_running()

    def _print_running(self) -> None:
        now = time.monotonic()
        if not self.running:
            self.print_line(f"{self.announcement} ({now - self.announced_at:.0f} s)")
        for step, (started, event) in self.running.items():
            if not event.done:
                event = Event(step, "progress", seconds=now - started)
            self.print_line(f"{step}: {describe_progress(event)}")


class LiveDisplay(ProgressDisplay):
    """Shows a bar for each running step; lines stay above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[amount]}"),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.tasks: dict[str, TaskID] = {}

    def start(self) -> None:
        self.progress.start()

    def stop(self) -> None:
        self.print_skipped(at_once=True)
        self.progress.stop()

    def update_step(self, event: Event) -> None:
        task = self.tasks.get(event.step)
        if task is None:
            self.tasks[event.step] = self.progress.add_task(
                event.step, total=event.total, amount=""
            )
            return
        amount = describe_progress(event)
        self.progress.update(task, completed=event.done, total=event.total, amount=amount)

    def remove_step(self, step: str) -> None:
        task = self.tasks.pop(step, None)
        if task is not None:
            self.progress.remove_task(task)
