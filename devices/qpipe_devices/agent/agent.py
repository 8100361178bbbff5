"""The agent: answers the host's requests on stdin and stdout, one at a time.

It leaves nothing running behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from . import lease, machine, wire
from .answer_journal import AnswerJournal
from .blob_store import BlobStore
from .failures import AgentError, failure_of, message_of
from .guard import Guard
from .mounts import mount_of
from .private_folder import PRIVATE_UMASK
from .round_conditions import RoundConditions, check_supported
from .round_settings import RoundSettings
from .runner_process import TIME_FIELDS, RunnerProcess, runner_environment
from .stored_samples import StoredSamples

if TYPE_CHECKING:
    from qpipe.types import RoundOptions

    from .messages import (
        BlobRequest,
        BuildRequest,
        CapabilitiesRequest,
        CleanRequest,
        FilesRequest,
        FolderRequest,
        Greeting,
        Hold,
        HoldRequest,
        InferRequest,
        MissingAnswer,
        PlacementAnswer,
        ReleaseRequest,
        Request,
        RoundAnswer,
        RoundRequest,
        TimeAnswer,
    )

SILENCE_S = 30.0
BEATS = 5  # so many in the time that either side may be silent
LONGEST_LOOK_S = 120
# fields of a `round` that are not passed on to its runner
AGENT_FIELDS = ("do", "id", "key", "build", "samples", "deadline_s", "options")


def main() -> None:
    """Take the lease of the device, greet the host, and serve until stdin ends."""
    arguments = _parse_arguments()
    root = arguments.root.resolve()
    os.umask(PRIVATE_UMASK)
    source, sink = wire.claim()
    sink.write(b"\n" + wire.MAGIC + b"ready\n")
    if arguments.look:
        _look(root, arguments.lock, source, sink)
        return
    client = lease.Client(
        arguments.holder,
        arguments.session,
        arguments.silence,
        arguments.purpose,
        waits=arguments.waits,
    )
    try:
        device_lease = lease.take_lease(
            root, arguments.lock, client, despite_hold=arguments.despite_hold
        )
        _use_own_temporary_folder(root)
        guard = Guard(runner_environment(), lease_locks=device_lease.locks, folder=root)
        device_lease.guard = guard.process.pid
        device_lease.beat()
        agent = Agent(root, device_lease, guard, source=source, sink=sink)
    except (AgentError, OSError) as error:
        wire.write_message(sink, {"id": 0, **_error_fields(error)})
        return
    greeting: Greeting = {
        "root": str(agent.blobs.root),
        "incoming": str(agent.blobs.incoming),
        "token": device_lease.token,
    }
    wire.write_message(sink, {"id": 0, **greeting})
    agent.serve()


def _look(root: Path, lock: Path | None, source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer what the device is and who has it, without its lease, until stdin ends."""
    signal.alarm(LONGEST_LOOK_S)  # a host that is silent does not keep it here
    wire.write_message(sink, {"id": 0, "root": str(root), "incoming": "", "token": 0})
    while True:
        message = wire.read_message(source)
        if message is None:
            return
        if message.fields["do"] != "look":
            continue
        answer: Mapping[str, Any]
        try:
            sysfs = Path(message.fields.get("sysfs") or "/")
            answer = {**machine.capabilities(sysfs), "holder": lease.holder_of(root, lock)}
        except (AgentError, OSError) as error:
            answer = _error_fields(error)
        wire.write_message(sink, {**answer, "id": message.fields["id"], "last": True})


def _use_own_temporary_folder(root: Path) -> None:
    """Have runtimes write their temporary files where space is kept free, not in a small /tmp."""
    folder = root / "tmp"
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir(mode=0o700)
    os.environ["TMPDIR"] = str(folder)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("qpipe_agent", description=__doc__)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder for all that qpipe stores on the device"
    )
    parser.add_argument("--holder", default="somebody", help="user@host, shown to other users")
    parser.add_argument(
        "--purpose", default="", help="process, run and recipe, shown to other users"
    )
    parser.add_argument(
        "--silence",
        type=float,
        default=SILENCE_S,
        help="end when the host is silent for so many seconds",
    )
    parser.add_argument(
        "--session",
        default=uuid.uuid4().hex,
        help="session of the host, which ends its own earlier agent",
    )
    parser.add_argument("--lock", type=Path, help="a lock that other users' agents take too")
    parser.add_argument(
        "--despite-hold", action="store_true", help="start although a person holds the device"
    )
    parser.add_argument(
        "--waits", action="store_true", help="be the next, where another agent has the device"
    )
    parser.add_argument(
        "--look", action="store_true", help="answer `look` alone, without the lease of the device"
    )
    return parser.parse_args()


class Agent:
    """One conversation with one host.

    A thread listens, so that the end of the host is noticed while a request is answered.
    """

    def __init__(
        self,
        root: Path,
        device_lease: lease.Lease,
        guard: Guard | None,
        *,
        source: IO[bytes],
        sink: IO[bytes],
    ) -> None:
        self.lease = device_lease
        self.source = source
        self.sink = sink
        self.silence_s = device_lease.client.silence_s
        self.blobs = BlobStore(root, device_lease.token)
        self.journal = AnswerJournal(root / "journal", device_lease.client.session)
        self.guard = guard
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.sending = threading.Lock()
        self.last_message_at = time.monotonic()
        self.runner: RunnerProcess | None = None
        self.cancelled_id = 0
        self.settings = RoundSettings(root)
        self.answers: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
            "capabilities": self._capabilities,
            "clock": self._clock,
            "missing": self._missing,
            "take": self._take,
            "folder": self._folder,
            "clean": self._clean,
            "infer": self._infer,
            "round": self._round,
            "placement": self._placement,
            "hold": self._hold,
            "release": self._release,
        }

    def serve(self) -> None:
        """Answer requests; the process ends in here."""
        for target in (self._listen, self._beat):
            threading.Thread(target=target, daemon=True).start()
        while True:
            request = self.requests.get()
            try:
                self._answer_request(request)
            except BrokenPipeError:
                self._end()

    def _answer_request(self, request: Mapping[str, Any]) -> None:
        """Answer one request, with an error where it fails."""
        answer: Mapping[str, Any]
        try:
            self.lease.check()
            if request["do"] not in self.answers:
                raise AgentError(
                    f"request '{request['do']}' is not known; valid requests are "
                    f"{', '.join(self.answers)}"
                )
            answer = self.answers[request["do"]](request)
        except BrokenPipeError:
            raise
        # ValueError: samples that are cut short
        except (AgentError, OSError, ValueError, MemoryError) as error:
            answer = _error_fields(error)
        except Exception as error:  # noqa: BLE001  a bug of ours ends the request, not the agent
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}", "failure": "bug"}
        self._send({**answer, "id": request["id"], "last": True})

    # ---- one method a request

    def _capabilities(self, request: CapabilitiesRequest) -> Mapping[str, Any]:
        return machine.capabilities(Path(request.get("sysfs") or "/"))

    def _clock(self, _request: Request) -> Mapping[str, int]:
        return {"now_ns": time.monotonic_ns()}

    def _missing(self, request: FilesRequest) -> MissingAnswer:
        return {
            "missing": self.blobs.missing(request["files"]),
            "free": self.blobs.free_bytes(),
            "mount": mount_of(str(self.blobs.root)),
        }

    def _take(self, request: BlobRequest) -> Mapping[str, bool]:
        return {"taken": self.blobs.accept(request["digest"])}

    def _folder(self, request: FolderRequest) -> Mapping[str, str]:
        folder = self.blobs.make_folder(request["digest"], request["files"])
        return {"path": str(folder)}

    def _clean(self, request: CleanRequest) -> Mapping[str, int]:
        return {"bytes": self.blobs.clean(request.get("what", {}))}

    def _hold(self, request: HoldRequest) -> Hold:
        return self.lease.hold(request["lasts_s"], request["reason"])

    def _release(self, request: ReleaseRequest) -> Mapping[str, bool]:
        return {"released": self.lease.release(force=request["force"])}

    def _infer(self, request: InferRequest) -> Mapping[str, Any]:
        samples = StoredSamples(Path(request["samples"]))
        with self._loaded_runner(request) as runner:
            for index in range(request.get("first", 0), request["count"]):
                if self.cancelled_id == request["id"]:
                    break
                outputs = _infer_sample(runner, samples, index)
                self._send({"id": request["id"], "index": index}, outputs)
        return {}

    def _round(self, request: RoundRequest) -> RoundAnswer:
        """Return a round, or the answer to the same request in a conversation that was cut."""
        earlier = self.journal.find(request)
        if earlier is not None:
            return earlier
        answer = self._time_round(request)
        self.lease.check()  # what was measured after another was given the device does not count
        self.journal.append(request, answer)
        return answer

    def _time_round(self, request: RoundRequest) -> RoundAnswer:
        samples = StoredSamples(Path(request["samples"]))
        options: RoundOptions = request.get("options") or {}
        conditions = RoundConditions(options, self.settings)
        with conditions.prepared(), self._loaded_runner(request) as runner:
            loaded = runner.load_answer
            assert loaded
            check_supported(options, "threads", answer=loaded, field="threads", runner=runner.name)
            feeds = samples.feeds(0, runner.manifest, loaded["inputs"]).chunk(0, {})
            feeds = conditions.repeat_batch(feeds, runner.manifest)
            with conditions.watched(runner.process.pid):
                timed = _time_inferences(runner, request, options, feeds)
            check_supported(
                options, "sustained_s", answer=timed, field="sustained", runner=runner.name
            )
            return conditions.answer(loaded, timed)

    def _placement(self, request: BuildRequest) -> PlacementAnswer:
        with self._loaded_runner(request) as runner:
            task = f"report the placement of {runner.model}"
            placed = runner.request(task, {"do": "placement"}).fields
        answer = {key: placed[key] for key in ("nodes", "float_nodes") if key in placed}
        return cast("PlacementAnswer", answer)

    @contextlib.contextmanager
    def _loaded_runner(self, request: BuildRequest) -> Iterator[RunnerProcess]:
        """Give a runner with the build loaded.

        The other threads know it from its first moment, so that they can end it.
        """
        runner = RunnerProcess(Path(request["build"]), request["deadline_s"], self.guard)
        self.runner = runner
        try:
            options: RoundOptions = request.get("options") or {}
            runner.load(threads=options.get("threads"), batch=options.get("batch"))
            yield runner
        finally:
            self.runner = None
            runner.close()

    # ---- the conversation

    def _send(
        self, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        with self.sending:
            wire.write_message(self.sink, fields, arrays)

    def _listen(self) -> None:
        try:
            while True:
                message = wire.read_message(self.source)
                if message is None:
                    break
                self.last_message_at = time.monotonic()
                request = message.fields["do"]
                if request == "cancel":
                    self.cancelled_id = message.fields["which"]
                    self._kill_runner()
                elif request == "beat":
                    purpose = message.fields.get("purpose", "")
                    self.lease.client = self.lease.client._replace(purpose=purpose)
                else:
                    self.requests.put(message.fields)
        finally:
            self._end()

    def _beat(self) -> None:
        """Send beats to the host and to the locks.

        End when the host is silent for too long, or where it no longer reads.
        """
        while True:
            time.sleep(self.silence_s / BEATS)
            if time.monotonic() - self.last_message_at > self.silence_s:
                print("the host has been silent for too long", file=sys.stderr)  # noqa: T201  stderr is the log
                self._end()
            self.lease.beat()
            if self.sending.acquire(timeout=0):  # a message that is being sent says as much
                try:
                    wire.write_message(
                        self.sink, {"id": -1, "others_wait": self.lease.others_wait()}
                    )
                except OSError:
                    self._end()
                finally:
                    self.sending.release()

    def _end(self) -> None:
        """End the runner's process group and this process, from any thread."""
        self._kill_runner()
        self.settings.end()
        os._exit(0)

    def _kill_runner(self) -> None:
        runner = self.runner  # read once: the answering thread may clear it at any moment
        if runner:
            runner.kill()


def _infer_sample(
    runner: RunnerProcess, samples: StoredSamples, index: int
) -> Mapping[str, np.ndarray]:
    """Return the outputs of one sample, of a sequence those of all chunks.

    Raise AgentError where they are not those announced.
    """
    loaded = runner.load_answer
    assert loaded

    def infer(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        outputs = runner.request(f"run sample {index}", {"do": "run"}, feeds).arrays
        if set(outputs) != set(loaded["outputs"]):
            announced = ", ".join(loaded["outputs"]) or "nothing"
            returned = ", ".join(outputs) or "nothing"
            raise AgentError(
                f"runner {runner.name} announced the outputs {announced}, it returned {returned}",
                failure="wrong answer",
            )
        return outputs

    feeds = samples.feeds(index, runner.manifest, loaded["inputs"])
    sample_outputs: Mapping[str, np.ndarray] = feeds.outputs(infer)
    return sample_outputs


def _time_inferences(
    runner: RunnerProcess,
    request: RoundRequest,
    options: RoundOptions,
    feeds: Mapping[str, np.ndarray],
) -> TimeAnswer:
    """Return a runner's answer to `time`; raise AgentError where it has no value."""
    round_fields = {name: value for name, value in request.items() if name not in AGENT_FIELDS}
    timed = runner.request(
        f"time {runner.model}",
        {"do": "time", **options, **round_fields},
        feeds,
        extra_s=request["budget_s"] + options.get("sustained_s", 0),
        required_fields=TIME_FIELDS,
    )
    if not timed.fields["values_ns"]:
        raise AgentError(
            f"runner {runner.name} returned no value when asked to time {runner.model}"
        )
    return cast("TimeAnswer", timed.fields)


def _error_fields(error: BaseException) -> dict[str, str]:
    return {"error": message_of(error), "failure": failure_of(error)}
