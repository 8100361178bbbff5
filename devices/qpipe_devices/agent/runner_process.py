"""Drives a runner: starts it as a fresh process, asks it, and says why where it gives no answer."""

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
from pathlib import Path
from typing import IO, Any, Mapping  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import failures, wire
from .failures import AgentError
from .guard import Guard

# what answers have in any case, and as what
LOADED = {"load_ms": float, "runtime_mb": float, "inputs": list, "outputs": list}
TIMED = {"first_ms": float, "warmups": int, "values_ns": list, "peak_mb": float}


# a model or a runtime that is broken; by any other signal somebody else ended it
CRASHES = (
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
)


class Runner:
    """A runner process for one build; in a process group of its own, so that nothing of it outlives it."""

    def __init__(self, build: Path, deadline_s: float, guard: Guard | None = None) -> None:
        self.build = build
        self.manifest = read_manifest(build)
        self.deadline_s = deadline_s
        self.name = str(self.manifest["runner"])
        self.model = str(self.manifest.get("model"))
        self.loaded: dict[str, Any] = {}
        self.tail: deque[str] = deque(maxlen=20)
        self.late = False
        self.nonsense: str | None = None
        self.guard = guard
        self.oom_kills = failures.oom_kills()
        try:
            self.process = subprocess.Popen(
                command(build, self.name),
                cwd=str(build),
                env=environment(),
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise AgentError(f"runner {self.name} does not start: {error.strerror}") from error
        if guard:
            guard.watch(self.process.pid)
        self.stdin = _pipe(self.process.stdin)
        self.stdout = _pipe(self.process.stdout)
        self.pump = threading.Thread(
            target=self._pump, args=(_pipe(self.process.stderr),), daemon=True
        )
        self.pump.start()

    def load(self, **asked: int | None) -> None:
        """Load the build's model, for the `threads` and the `batch` that are said, if any; the answer is kept."""
        wanted = {
            "do": "load",
            "build": str(self.build),
            "model": self.model,
            "options": self.manifest.get("options"),
        }
        wanted.update({name: value for name, value in asked.items() if value is not None})
        self.loaded = self.ask(f"load {self.model}", wanted, needs=LOADED).fields

    def ask(
        self,
        task: str,
        fields: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        extra_s: float = 0,
        needs: Mapping[str, type] | None = None,
    ) -> wire.Message:
        """Its answer; AgentError with the reason where it answers with an error, ends, exceeds the deadline, or leaves
        out what the answer `needs`."""
        seconds = self.deadline_s + extra_s
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            wire.write(self.stdin, fields, arrays)
            answer = wire.read(self.stdout)
        except OSError:  # its stdin is gone
            answer = None
        except ValueError as error:
            answer = None
            self.nonsense = str(error)
        finally:
            timer.cancel()
        if answer is None:
            how, failure = self._end(seconds)
            raise AgentError(
                f"runner {self.name} {how} when asked to {task}{self._last_line()}", failure
            )
        if "error" in answer.fields:
            reason = " ".join(str(answer.fields["error"]).split())
            failure = str(answer.fields.get("failure", failures.of_text(reason)))
            raise AgentError(f"runner {self.name} could not {task}: {reason}", failure)
        wrong = _wrong(answer.fields, needs or {})
        if wrong:
            said = f"runner {self.name} did not {task} as PROTOCOL.md says: its answer {wrong}"
            raise AgentError(said, "wrong answer")
        return answer

    def kill(self) -> None:
        """End it and all it started, at once."""
        # it may be gone (macOS says PermissionError of a zombie)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end by itself for a second, then end it."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.stdin.close()
            self.process.wait(1)
        self.kill()
        self.process.wait()
        if self.guard:
            self.guard.forget(self.process.pid)
        self.pump.join(1)

    def _expire(self) -> None:
        self.late = True
        self.kill()

    def _end(self, seconds: float) -> tuple[str, str]:
        """How it ended, and which failure that is."""
        if self.late:
            return (
                f"gave no answer within {seconds:g} s",
                "artifact",
            )  # the line is well: the agent tells it
        if self.nonsense is not None:
            self.kill()
            return f"answered with something that is no message ({self.nonsense})", "wrong answer"
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its stdout", "artifact"
        self.pump.join(1)
        failure = failures.of_text(" ".join(self.tail))
        if status >= 0:
            return f"ended with status {status}", failure
        name = signal.Signals(-status).name
        if status == -signal.SIGKILL:
            return self._of_kill(f"was killed by {name}")
        return f"was killed by {name}", failure if -status in CRASHES else "died"

    def _of_kill(self, how: str) -> tuple[str, str]:
        """Nobody says who sent a SIGKILL, but the kernel counts those it sends for want of memory."""
        now = failures.oom_kills()
        if now is None or self.oom_kills is None:
            return f"{how} (out of memory?)", "out of memory"
        return (
            (f"{how} (out of memory)", "out of memory") if now > self.oom_kills else (how, "died")
        )

    def _last_line(self) -> str:
        self.pump.join(1)
        return f"; its last line: {self.tail[-1]}" if self.tail else ""

    def _pump(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.tail.append(text)
                print(text, file=sys.stderr, flush=True)  # noqa: T201  stderr is the log that the host keeps


def _wrong(fields: Mapping[str, Any], needs: Mapping[str, type]) -> str:
    """What an answer lacks, or has as something else; nothing where it is right."""
    for key, kind in needs.items():
        if key not in fields:
            return f"lacks {key}"
        if not isinstance(fields[key], (int, float) if kind is float else kind):
            return f"has {key} {fields[key]!r}"
    return ""


def read_manifest(build: Path) -> dict[str, Any]:
    """build.json of a build; AgentError where there is none or it names no runner."""
    try:
        manifest: dict[str, Any] = json.loads((build / "build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgentError(f"{build} is no build: {error}") from error
    if "runner" not in manifest:
        raise AgentError(
            f"{build}/build.json names no runner; give one, such as run_onnxruntime.py"
        )
    return manifest


def command(build: Path, runner: str) -> list[str]:
    """How to start a runner: a file of the build (Python or an executable), or one that the agent brings."""
    own = build / runner
    if own.is_file():
        if own.suffix == ".py":
            return [sys.executable, str(own)]
        own.chmod(0o755)
        return [str(own)]
    module = f"{__package__}.{Path(runner).stem}"
    if not runner.startswith("run_") or importlib.util.find_spec(module) is None:
        raise AgentError(
            f"there is no runner '{runner}'; it must lie in the build or be run_onnxruntime.py"
        )
    return [sys.executable, "-m", module]


def environment() -> dict[str, str]:
    """Lets runners written in Python import qpipe_agent.wire."""
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
