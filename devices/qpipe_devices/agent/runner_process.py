"""The agent's end of a runner: a fresh process that answers requests, and why it does not."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from . import wire
from .failures import BUILD_FAILURE, AgentError, count_oom_kills, failure_of_text
from .guard import Guard
from .mounts import is_noexec, mount_of

if TYPE_CHECKING:
    from .messages import LoadAnswer

# the fields that an answer must have, and their types
LOAD_FIELDS = {"load_ms": float, "runtime_mb": float, "inputs": list, "outputs": list}
TIME_FIELDS = {"first_ms": float, "warmups": int, "values_ns": list, "peak_mb": float}
# signals of a broken model or runtime; any other was sent by somebody else
CRASH_SIGNALS = (
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
)


class RunnerEnd(NamedTuple):
    """How a runner ended, in words, and the type of that failure."""

    description: str
    failure: str


class RunnerProcess:
    """A runner process for one build, in a process group of its own: nothing of it outlives it."""

    def __init__(self, build: Path, deadline_s: float, guard: Guard | None = None) -> None:
        self.build = build
        self.manifest = read_manifest(build)
        self.deadline_s = deadline_s
        self.name = str(self.manifest["runner"])
        self.model = str(self.manifest.get("model"))
        self.load_answer: LoadAnswer | None = None
        self.last_lines: deque[str] = deque(maxlen=20)  # of its stderr
        self.is_late = False
        self.not_a_message: str | None = None
        self.guard = guard
        self.oom_kills = count_oom_kills()
        try:
            self.process = subprocess.Popen(
                runner_command(build, self.name),
                cwd=str(build),
                env=runner_environment(),
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise self._start_error(error) from error
        if guard:
            guard.watch(self.process.pid)
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin = self.process.stdin
        self.stdout = self.process.stdout
        self.log_thread = threading.Thread(
            target=self._forward_log, args=(self.process.stderr,), daemon=True
        )
        self.log_thread.start()

    def _start_error(self, error: OSError) -> AgentError:
        reason = f"runner {self.name} does not start: {error.strerror}"
        if not is_noexec(str(self.build)):
            return AgentError(reason)
        mount = mount_of(str(self.build))
        return AgentError(
            f"{reason}: {mount} is mounted noexec; set folder to a place on another mount",
            failure="configuration",
        )

    def load(self, *, threads: int | None, batch: int | None) -> LoadAnswer:
        """Load the build's model; None leaves `threads` or `batch` to the build."""
        request: dict[str, Any] = {
            "do": "load",
            "build": str(self.build),
            "model": self.model,
            "options": self.manifest.get("options"),
        }
        if threads is not None:
            request["threads"] = threads
        if batch is not None:
            request["batch"] = batch
        answer = self.request(f"load {self.model}", request, required_fields=LOAD_FIELDS)
        self.load_answer = cast("LoadAnswer", answer.fields)
        return self.load_answer

    def request(
        self,
        task: str,
        fields: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        extra_s: float = 0,
        required_fields: Mapping[str, type] | None = None,
    ) -> wire.Message:
        """Return the answer to a request.

        `task` says in messages what was requested; `extra_s` extends the deadline. Raise AgentError
        with the reason where it answers with an error, ends, exceeds the deadline, or leaves out
        a required field.
        """
        seconds = self.deadline_s + extra_s
        answer = self._exchange(fields, arrays, seconds)
        if answer is None:
            end = self._how_it_ended(seconds)
            raise AgentError(
                f"runner {self.name} {end.description} when asked to {task}{self._last_line()}",
                failure=end.failure,
            )
        if "error" in answer.fields:
            reason = " ".join(str(answer.fields["error"]).split())
            failure = str(answer.fields.get("failure", failure_of_text(reason)))
            raise AgentError(f"runner {self.name} could not {task}: {reason}", failure=failure)
        fault = _fault_of_fields(answer.fields, required_fields or {})
        if fault:
            raise AgentError(
                f"runner {self.name} did not {task} as PROTOCOL.md requires: its answer {fault}",
                failure="wrong answer",
            )
        return answer

    def kill(self) -> None:
        """Kill it and all it started."""
        # it may be gone (macOS raises PermissionError for a zombie)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close its stdin, give it a second to end by itself, then kill it."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.stdin.close()
            self.process.wait(1)
        self.kill()
        self.process.wait()
        if self.guard:
            self.guard.forget(self.process.pid)
        self.log_thread.join(1)

    def _exchange(
        self,
        fields: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None,
        seconds: float,
    ) -> wire.Message | None:
        """Send a request; return the answer, None where none comes within `seconds`."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            wire.write_message(self.stdin, fields, arrays)
            return wire.read_message(self.stdout)
        except OSError:  # its stdin is gone
            return None
        except ValueError as error:
            self.not_a_message = str(error)
            return None
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.is_late = True
        self.kill()

    def _how_it_ended(self, seconds: float) -> RunnerEnd:
        if self.is_late:
            # not "timeout": the connection is fine, the agent reports this itself
            return RunnerEnd(f"gave no answer within {seconds:g} s", BUILD_FAILURE)
        if self.not_a_message is not None:
            self.kill()
            description = f"gave an answer that is not a message ({self.not_a_message})"
            return RunnerEnd(description, "wrong answer")
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.kill()
            return RunnerEnd("closed its stdout", BUILD_FAILURE)
        self.log_thread.join(1)
        failure = failure_of_text(" ".join(self.last_lines))
        if status >= 0:
            return RunnerEnd(f"ended with status {status}", failure)
        description = f"was killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            return self._end_by_sigkill(description)
        if -status in CRASH_SIGNALS:
            return RunnerEnd(description, failure)
        return RunnerEnd(description, "died")

    def _end_by_sigkill(self, description: str) -> RunnerEnd:
        """Return the end by SIGKILL.

        Its sender is not known, but the kernel counts the kills for lack of memory.
        """
        oom_kills = count_oom_kills()
        if oom_kills is None or self.oom_kills is None:
            return RunnerEnd(f"{description} (out of memory?)", "out of memory")
        if oom_kills > self.oom_kills:
            return RunnerEnd(f"{description} (out of memory)", "out of memory")
        return RunnerEnd(description, "died")

    def _last_line(self) -> str:
        self.log_thread.join(1)
        if self.last_lines:
            return f"; its last line: {self.last_lines[-1]}"
        return ""

    def _forward_log(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.last_lines.append(text)
                print(text, file=sys.stderr, flush=True)  # noqa: T201  stderr is the host's log


def read_manifest(build: Path) -> dict[str, Any]:
    """Return build.json of a build; raise AgentError where it is missing or names no runner."""
    try:
        manifest: dict[str, Any] = json.loads((build / "build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgentError(f"{build} is not a build: {error}") from error
    if "runner" not in manifest:
        raise AgentError(
            f"{build}/build.json names no runner; give one, such as run_onnxruntime.py"
        )
    return manifest


def runner_command(build: Path, runner: str) -> list[str]:
    """Return the command that starts a runner.

    A runner is a file of the build (Python or an executable), or a module of the agent.
    """
    file = build / runner
    if file.is_file():
        if file.suffix == ".py":
            return [sys.executable, str(file)]
        file.chmod(0o700)
        return [str(file)]
    module = f"{__package__}.{Path(runner).stem}"
    if not runner.startswith("run_") or importlib.util.find_spec(module) is None:
        raise AgentError(
            f"runner '{runner}' does not exist; "
            "it must be a file of the build or run_onnxruntime.py"
        )
    return [sys.executable, "-m", module]


def runner_environment() -> dict[str, str]:
    """Return the environment in which runners written in Python can import qpipe_agent."""
    paths = [str(Path(__file__).parents[1])]
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        paths.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _fault_of_fields(fields: Mapping[str, Any], required: Mapping[str, type]) -> str:
    """Return which field an answer lacks, or has with another type; "" where it is right."""
    for name, field_type in required.items():
        if name not in fields:
            return f"lacks {name}"
        types = (int, float) if field_type is float else field_type
        if not isinstance(fields[name], types):
            return f"has {name} {fields[name]!r}"
    return ""
