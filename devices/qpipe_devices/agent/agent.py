"""The agent: answers the host's requests on stdin and stdout, one at a time, and leaves nothing running behind it."""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import sys
import threading
import time
import traceback
import uuid
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, Mapping  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import failures, lease, machine, wire
from .blob_store import Shelf
from .failures import AgentError
from .guard import Guard
from .round_conditions import Conditions, check_followed
from .round_journal import Journal
from .round_settings import Settings
from .runner_process import TIMED, Runner, environment
from .stored_samples import StoredSamples

Fields = Dict[str, Any]  # noqa: UP006
UNTIMED = (
    "do",
    "id",
    "key",
    "build",
    "samples",
    "deadline_s",
    "options",
)  # of a `round`: not what its runner is asked


def main() -> None:
    """Take the device, say so, and serve until stdin ends."""
    parser = argparse.ArgumentParser("qpipe_agent", description=__doc__)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder for all that qpipe keeps here"
    )
    parser.add_argument("--holder", default="somebody", help="who asks, for the others to read")
    parser.add_argument(
        "--silence",
        type=float,
        default=30.0,
        help="end when the host is silent for so many seconds",
    )
    parser.add_argument(
        "--session", default=uuid.uuid4().hex, help="of the host: it ends its own earlier agent"
    )
    parser.add_argument("--lock", type=Path, help="a lock that other users' agents take too")
    parser.add_argument(
        "--despite-hold", action="store_true", help="for who holds or releases the device"
    )
    given = parser.parse_args()
    source, sink = wire.claim()
    sink.write(b"\n" + wire.MAGIC + b"ready\n")
    asker = lease.Asker(given.holder, given.session, given.silence)
    try:
        own = lease.take(given.root.resolve(), given.lock, asker, given.despite_hold)
        guard = Guard(environment(), own.locks, given.root.resolve())
        own.guard = guard.process.pid
        own.beat()
        agent = Agent(given.root.resolve(), own, guard, source, sink)
    except (AgentError, OSError) as error:
        wire.write(sink, {"id": 0, "error": failures.said(error), "failure": failures.of(error)})
        return
    hello = {
        "root": str(agent.shelf.root),
        "incoming": str(agent.shelf.incoming),
        "token": own.token,
    }
    wire.write(sink, {"id": 0, **hello})
    agent.serve()


class Agent:
    """One conversation with one host. A thread listens, so that the host's end is noticed whatever else goes on."""

    def __init__(
        self, root: Path, own: lease.Lease, guard: Guard | None, source: IO[bytes], sink: IO[bytes]
    ) -> None:
        self.lease = own
        self.source = source
        self.sink = sink
        self.silence_s = own.asker.silence_s
        self.shelf = Shelf(root, own.token)
        self.journal = Journal(root / "journal", own.asker.session)
        self.guard = guard
        self.requests: queue.Queue[Fields] = queue.Queue()
        self.sending = threading.Lock()
        self.heard = time.monotonic()
        self.runner: Runner | None = None
        self.cancelled = 0
        self.settings = Settings(root)

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
            "capabilities": lambda asked: machine.capabilities(Path(asked.get("sysfs") or "/")),
            "clock": lambda _: {"now_ns": time.monotonic_ns()},
            "missing": lambda asked: {
                "missing": self.shelf.missing(asked["files"]),
                "free": self.shelf.free(),
            },
            "take": lambda asked: {"taken": self.shelf.take(asked["digest"])},
            "folder": lambda asked: {
                "path": str(self.shelf.folder(asked["digest"], asked["files"]))
            },
            "clean": lambda asked: {"bytes": self.shelf.clean(**asked.get("what", {}))},
            "infer": self._infer,
            "round": self._journalled,
            "placement": self._placement,
            "hold": lambda asked: self.lease.hold(asked["lasts_s"], asked["reason"]),
            "release": lambda asked: {"released": self.lease.release(asked["force"])},
        }
        try:
            self.lease.check()
            if request["do"] not in verbs:
                raise AgentError(f"unknown request '{request['do']}'; there is {', '.join(verbs)}")
            answer = verbs[request["do"]](request)
        except BrokenPipeError:
            raise
        except (
            AgentError,
            OSError,
            ValueError,
            MemoryError,
        ) as error:  # ValueError: samples that are cut short
            answer = {"error": failures.said(error), "failure": failures.of(error)}
        except Exception as error:  # noqa: BLE001  our own bug ends the request, not the conversation
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}", "failure": "bug"}
        self._send({**answer, "id": request["id"], "last": True})

    def _infer(self, asked: Fields) -> Fields:
        samples = StoredSamples(Path(asked["samples"]))
        with self._running(asked) as runner:
            for index in range(asked.get("first", 0), asked["count"]):
                if self.cancelled == asked["id"]:
                    break
                feeds = samples.feeds(index, runner.loaded["inputs"])
                outputs = runner.ask(f"run sample {index}", {"do": "run"}, feeds).arrays
                if set(outputs) != set(runner.loaded["outputs"]):
                    said, gave = (
                        ", ".join(names) or "nothing"
                        for names in (runner.loaded["outputs"], outputs)
                    )
                    wrong = f"runner {runner.name} said that it gives {said}, it gave {gave}"
                    raise AgentError(wrong, "wrong answer")
                self._send({"id": asked["id"], "index": index}, outputs)
        return {}

    def _journalled(self, asked: Fields) -> Fields:
        """A round; or what it gave when it was asked for in a conversation that was cut."""
        earlier = self.journal.find(asked)
        if earlier is not None:
            return earlier
        answer = self._round(asked)
        self.lease.check()  # what was measured after another was given the device is nobody's
        self.journal.keep(asked, answer)
        return answer

    def _round(self, asked: Fields) -> Fields:
        samples = StoredSamples(Path(asked["samples"]))
        options = asked.get("options") or {}
        conditions = Conditions(options, self.settings)
        with conditions.settled(), self._running(asked) as runner:
            check_followed(options, "threads", runner.loaded, "threads", runner.name)
            feeds = conditions.batched(samples.feeds(0, runner.loaded["inputs"]), runner.manifest)
            wanted = {**options, **{key: asked[key] for key in asked if key not in UNTIMED}}
            seconds = asked["budget_s"] + options.get("sustained_s", 0)
            with conditions.watched(runner.process.pid):
                timed = runner.ask(
                    f"time {runner.model}", {"do": "time", **wanted}, feeds, seconds, TIMED
                )
            if not timed.fields["values_ns"]:
                raise AgentError(
                    f"runner {runner.name} gave no value when asked to time {runner.model}"
                )
            check_followed(options, "sustained_s", timed.fields, "sustained", runner.name)
            return {**runner.loaded, **conditions.told(timed.fields)}

    def _placement(self, asked: Fields) -> Fields:
        with self._running(asked) as runner:
            placed = runner.ask(f"tell the placement of {runner.model}", {"do": "placement"}).fields
        return {key: placed[key] for key in ("nodes", "float_nodes") if key in placed}

    @contextlib.contextmanager
    def _running(self, asked: Fields) -> Iterator[Runner]:
        """A loaded runner, known to the other threads from its first moment, so that they can end it."""
        runner = self.runner = Runner(Path(asked["build"]), asked["deadline_s"], self.guard)
        try:
            options = asked.get("options") or {}
            runner.load(threads=options.get("threads"), batch=options.get("batch"))
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
        """Tell the host that all is well, and end when it is silent for too long or another was given the device."""
        while True:
            time.sleep(self.silence_s / 5)
            if time.monotonic() - self.heard > self.silence_s:
                print("the host has been silent for too long", file=sys.stderr)  # noqa: T201  stderr is the log
                self._end()
            self.lease.beat()
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
        self.settings.end()
        os._exit(0)

    def _kill(self) -> None:
        runner = self.runner  # read once: the thread that answers lets go of it at any moment
        if runner:
            runner.kill()
