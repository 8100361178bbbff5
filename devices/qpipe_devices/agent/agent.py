"""The agent: answers the host's requests on stdin and stdout, one at a time, and leaves nothing running behind it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, Mapping  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import machine, wire
from .runner import TIMED, AgentError, Runner
from .shelf import Shelf
from .stored_samples import StoredSamples

Fields = Dict[str, Any]  # noqa: UP006
LOCK_WAIT_S = 3.0  # an agent whose host has just gone needs a moment to fall


def main() -> None:
    """Take the device, say so, and serve until stdin ends."""
    parser = argparse.ArgumentParser("qpipe_agent", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for all that qpipe keeps here")
    parser.add_argument("--holder", default="somebody", help="who asks, for the others to read")
    parser.add_argument("--silence", type=float, default=30.0, help="end when the host is silent for so many seconds")
    given = parser.parse_args()
    source, sink = wire.claim()
    sink.write(b"\n" + wire.MAGIC + b"ready\n")
    try:
        lock = take_lock(given.root / "lock", given.holder)
        shelf = Shelf(given.root.resolve())
    except (AgentError, OSError) as error:
        wire.write(sink, {"id": 0, "error": str(error)})
        return
    wire.write(sink, {"id": 0, "root": str(shelf.root)})
    with lock:
        Agent(shelf, source, sink, given.silence).serve()


def take_lock(path: Path, holder: str) -> IO[str]:
    """An open file whose lock falls with this process; AgentError where somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > end:
                file.seek(0)
                raise AgentError(f"busy: held by {file.read().strip()}") from None
            time.sleep(0.1)
    file.truncate(0)
    file.write(f"{holder} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
    file.flush()
    return file


class Agent:
    """One conversation with one host. A thread listens, so that the host's end is noticed whatever else goes on."""

    def __init__(self, shelf: Shelf, source: IO[bytes], sink: IO[bytes], silence_s: float) -> None:
        self.shelf, self.source, self.sink, self.silence_s = shelf, source, sink, silence_s
        self.requests: queue.Queue[Fields] = queue.Queue()
        self.sending = threading.Lock()
        self.heard = time.monotonic()
        self.runner: Runner | None = None
        self.cancelled = 0

    def serve(self) -> None:
        """Answer requests; the process ends inside."""
        for target in (self._listen, self._watch):
            threading.Thread(target=target, daemon=True).start()
        while True:
            request = self.requests.get()
            try:
                self._answer(request)
            except BrokenPipeError:
                self._end()

    def _answer(self, request: Fields) -> None:
        verbs: Mapping[str, Callable[[Fields], Fields]] = {
            "capabilities": lambda _: machine.capabilities(),
            "missing": lambda asked: {"missing": self.shelf.missing(asked["files"]), "free": self.shelf.free()},
            "take": lambda asked: {"taken": self.shelf.take(asked["digest"])},
            "folder": lambda asked: {"path": str(self.shelf.folder(asked["digest"], asked["files"]))},
            "clean": lambda _: {"bytes": self.shelf.clean()},
            "infer": self._infer,
            "round": self._round,
            "placement": self._placement,
        }
        try:
            if request["do"] not in verbs:
                raise AgentError(f"unknown request '{request['do']}'; there is {', '.join(verbs)}")
            answer = verbs[request["do"]](request)
        except BrokenPipeError:
            raise
        except (AgentError, OSError, ValueError) as error:  # ValueError: of stored samples that are cut short
            answer = {"error": str(error)}
        self._send({**answer, "id": request["id"], "last": True})

    def _infer(self, asked: Fields) -> Fields:
        samples = StoredSamples(Path(asked["samples"]))
        with self._running(asked) as runner:
            for index in range(asked["count"]):
                if self.cancelled == asked["id"]:
                    break
                feeds = samples.feeds(index, runner.loaded["inputs"])
                outputs = runner.ask(f"run sample {index}", {"do": "run"}, feeds).arrays
                if set(outputs) != set(runner.loaded["outputs"]):
                    said, gave = (", ".join(names) or "nothing" for names in (runner.loaded["outputs"], outputs))
                    raise AgentError(f"runner {runner.name} said that it gives {said}, it gave {gave}")
                self._send({"id": asked["id"], "index": index}, outputs)
        return {}

    def _round(self, asked: Fields) -> Fields:
        samples = StoredSamples(Path(asked["samples"]))
        with self._running(asked) as runner:
            feeds = samples.feeds(0, runner.loaded["inputs"])
            wanted = {key: asked[key] for key in ("values", "warmup_s", "budget_s")}
            timed = runner.ask(f"time {runner.model}", {"do": "time", **wanted}, feeds, asked["budget_s"], TIMED)
            if not timed.fields["values_ns"]:
                raise AgentError(f"runner {runner.name} gave no value when asked to time {runner.model}")
            return {**runner.loaded, **timed.fields}

    def _placement(self, asked: Fields) -> Fields:
        with self._running(asked) as runner:
            placed = runner.ask(f"tell the placement of {runner.model}", {"do": "placement"}).fields
        return {key: placed[key] for key in ("nodes", "float_nodes") if key in placed}

    @contextlib.contextmanager
    def _running(self, asked: Fields) -> Iterator[Runner]:
        """A loaded runner, known to the other threads from its first moment, so that they can end it."""
        runner = self.runner = Runner(Path(asked["build"]), asked["deadline_s"])
        try:
            runner.load()
            yield runner
        finally:
            self.runner = None
            runner.close()

    def _send(self, fields: Fields, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        with self.sending:
            wire.write(self.sink, fields, arrays)

    def _listen(self) -> None:
        try:
            while True:
                message = wire.read(self.source)
                if message is None:
                    break
                self.heard = time.monotonic()
                if message.fields["do"] == "cancel":
                    self.cancelled = message.fields["which"]
                    self._kill()
                elif message.fields["do"] != "beat":
                    self.requests.put(message.fields)
        finally:
            self._end()

    def _watch(self) -> None:
        """Tell the host that all is well, and end when it is silent for too long."""
        while True:
            time.sleep(self.silence_s / 5)
            if time.monotonic() - self.heard > self.silence_s:
                print("the host has been silent for too long", file=sys.stderr)  # noqa: T201  stderr is the log
                self._end()
            if self.sending.acquire(timeout=0):  # somebody who is sending says as much
                try:
                    wire.write(self.sink, {"id": -1})
                except OSError:
                    self._end()
                finally:
                    self.sending.release()

    def _end(self) -> None:
        """End the runner's process group and this process, from any thread."""
        self._kill()
        os._exit(0)

    def _kill(self) -> None:
        runner = self.runner  # read once: the thread that answers lets go of it at any moment
        if runner:
            runner.kill()
