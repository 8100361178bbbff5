"""How a run looks while it runs: a live display on a terminal, lines with the same facts elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from qpipe.engine.events import ENDINGS, Event

SILENCE_S = 4.0  # without a terminal, something is said at least so often
CROWD_S = (
    0.5  # steps that are skipped for one cause are told together once no more come for so long
)


class Display(Protocol):
    """Listens to a run's events, as a context."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def event(self, event: Event) -> None: ...
    def say(self, text: str) -> None: ...


def display() -> Display:
    """The display that fits standard error."""
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Lines(console)


def amount(event: Event) -> str:
    """Progress in words: done of total, rate, time left."""
    if not event.done:
        return f"{event.seconds:.0f} s"
    scale, unit = (1e6, "MB") if event.unit == "B" else (1, event.unit)
    done = f"{event.done / scale:.4g}"
    rate = event.done / event.seconds if event.seconds > 0 else 0
    text = f"{done}/{event.total / scale:.4g} {unit}" if event.total else f"{done} {unit}"
    if rate:
        text += f", {rate / scale:.3g} {unit}/s"
        if event.total:
            text += f", {(event.total - event.done) / rate:.0f} s left"
    return text


def ending(event: Event) -> str:
    """How a step ended, in a line."""
    what = "failed, will be tried again" if event.what == "retry" else event.what
    reason = f": {event.message}" if event.message else ""
    took = f" ({event.seconds:.1f} s)" if event.what in ("done", "failed", "retry") else ""
    return f"{event.step}: {what}{took}{reason}"


class Skipped:
    """Steps that are skipped come in crowds: each cause is told once, with their number."""

    def __init__(self) -> None:
        self.steps: dict[str, list[str]] = {}  # cause -> steps not told yet
        self.last = 0.0

    def add(self, event: Event) -> None:
        """One more."""
        self.steps.setdefault(event.message, []).append(event.step)
        self.last = time.monotonic()

    def lines(self, *, at_once: bool = False) -> list[str]:
        """What is to be told by now, once: nothing while more may come."""
        if not at_once and time.monotonic() - self.last < CROWD_S:
            return []
        steps = self.steps
        self.steps = {}
        return [
            f"{own[0] if len(own) == 1 else f'{len(own)} steps'}: skipped: {cause}"
            for cause, own in steps.items()
        ]


class Lines:
    """A line as each step ends, and one for what runs, so that it is never silent for long."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lock = threading.Lock()
        self.current: dict[str, tuple[float, Event]] = {}
        self.skipped = Skipped()
        self.last = time.monotonic()
        self.said = (self.last, "starting")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep_talking, daemon=True)

    def __enter__(self) -> Lines:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self._print_skipped(at_once=True)

    def event(self, event: Event) -> None:
        with self.lock:
            if event.what == "skipped":
                self.skipped.add(event)
            elif event.what in (*ENDINGS, "retry"):
                self.current.pop(event.step, None)
                self._print(ending(event))
            elif event.what == "notice":
                self._print(f"{event.step}: {event.message}")
            else:
                began = self.current.get(event.step, (time.monotonic(), event))[0]
                self.current[event.step] = (began, event)

    def say(self, text: str) -> None:
        with self.lock:
            self.said = (time.monotonic(), text)
            self._print(text)

    def _print_skipped(self, *, at_once: bool = False) -> None:
        for line in self.skipped.lines(at_once=at_once):
            self._print(line)

    def _print(self, text: str) -> None:
        self._print_skipped()
        self.last = time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _keep_talking(self) -> None:
        while not self.over.wait(0.5):
            with self.lock:
                now = time.monotonic()
                if now - self.last < SILENCE_S:
                    continue
                for step, (began, event) in self.current.items():
                    since = event if event.done else Event(step, "progress", seconds=now - began)
                    self._print(f"{step}: {amount(since)}")
                if not self.current:
                    at, text = self.said
                    self._print(f"{text} ({now - at:.0f} s)")


class Live:
    """A bar for each running step; what ended stays above as a line."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.lock = threading.Lock()
        self.skipped = Skipped()

    def __enter__(self) -> Live:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._print_skipped(at_once=True)
        self.progress.stop()

    def event(self, event: Event) -> None:
        with self.lock:
            if event.what == "skipped":
                self.skipped.add(event)
            elif event.what in (*ENDINGS, "retry"):
                task = self.tasks.pop(event.step, None)
                if task is not None:
                    self.progress.remove_task(task)
                self.say(ending(event))
            elif event.what == "notice":
                self.say(f"{event.step}: {event.message}")
            elif event.step not in self.tasks:
                self.tasks[event.step] = self.progress.add_task(
                    event.step, total=event.total, amount=""
                )
            else:
                task = self.tasks[event.step]
                self.progress.update(
                    task, completed=event.done, total=event.total, amount=amount(event)
                )

    def _print_skipped(self, *, at_once: bool = False) -> None:
        for line in self.skipped.lines(at_once=at_once):
            self.say(line)

    def say(self, text: str) -> None:
        self._print_skipped()
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
