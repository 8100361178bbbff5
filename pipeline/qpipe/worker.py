"""A step of the host, run in a process of its own: what kills it kills nothing else."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qpipe import exchange, own, registry
from qpipe.call import Call, found
from qpipe.errors import QpipeError, StageError
from qpipe.options import needs
from qpipe.quant.demands import check_target
from qpipe.types import Platform, Progress, Target

ENDING_S = 5.0  # a step's process has so long to end once its result is written
LONGEST = 300  # characters of somebody else's error
TICK_S = 0.2  # progress is passed on at most so often


@dataclass(frozen=True)
class Job:
    """All that a host step needs, in words that cross to another process."""

    step: str
    kind: str
    stage: str
    options: Mapping[str, Any]
    needs: Mapping[str, tuple[str, Path]]  # parameter -> kind and folder of what it gets
    target: Target | None
    out: Path  # an empty folder for what it gives
    log: Path
    plugins: Sequence[Path] = ()
    platform: Platform | None = None


def run(job: Job, progress: Progress, cancelled: Callable[[], bool]) -> None:
    """Run the job in a fresh process; StageError with its reason when it fails or is killed."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, theirs), name=job.step, daemon=True)
    process.start()
    theirs.close()
    failure: str | None = "it ended without a word"
    try:
        while True:
            if cancelled():
                raise KeyboardInterrupt
            if not ours.poll(TICK_S):
                continue
            message = ours.recv()
            if message[0] == "progress":
                progress(*message[1:])
                continue
            failure = message[1]
            break
    except EOFError:
        process.join()
        failure = _died(process.exitcode)
    finally:
        process.join(0 if failure else ENDING_S)
        if process.is_alive():  # a thread of the stage's library may not want to end
            process.kill()
            process.join()
        ours.close()
    if failure is not None:
        raise StageError(failure)


def _died(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = "; likely out of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {status}"


@cache
def _context() -> Any:
    # forked from a clean server that has the heavy imports done: a step starts in milliseconds, and threads of ours
    # (connections, ONNX Runtime) are never copied
    context = multiprocessing.get_context("forkserver")
    modules = {entry.module for entry in importlib.metadata.entry_points(group="qpipe")}
    built_in = sorted(module for module in modules if module.startswith("qpipe_"))
    context.set_forkserver_preload(["qpipe.worker", "onnx_ir", "onnxruntime", *built_in])
    return context


def _child(job: Job, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        call(job, _Throttled(connection))
    except QpipeError as error:
        connection.send(("failed", str(error)))
    except MemoryError:
        connection.send(("failed", "out of memory; give it fewer samples, or a machine with more"))
    except Exception as error:  # noqa: BLE001  (foreign code: any failure of a stage is that step's alone)
        traceback.print_exc()
        connection.send(("failed", broke(job.kind, job.stage, job.step, error)))
    else:
        connection.send(("done", None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def broke(kind: str, stage: str, step: str, error: BaseException) -> str:
    """How a stage's own failure is told, in one line; its traceback is in the step's log."""
    name = kind if kind == stage else f"{kind} {stage}"
    text = " ".join(str(error).split())
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{name} broke: {type(error).__name__}: {shown}; see: qpipe show {step} --log"


class _Throttled:
    """Sends progress to the parent, not more often than it is looked at."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None:
        now = time.monotonic()
        if now - self.last >= TICK_S:
            self.last = now
            self.connection.send(("progress", done, total, unit))


def call(job: Job, progress: Progress) -> None:
    """Bring what the stage needs, call it, write what it gives."""
    plugins = registry.load(job.plugins)
    stage = own.STAGES.get(job.kind) or plugins.stage(job.kind, job.stage)
    options = Call(stage, found(job.options, plugins)).resolved()
    with tempfile.TemporaryDirectory(prefix="qpipe-") as scratch:
        brought = {
            "progress": progress,
            "workdir": job.out if job.kind == "compile" else Path(scratch),
            "target": job.target,
            "platform": job.platform,
        }
        parameters = needs(stage.function)
        arguments = [brought[name] if name in brought else _needed(job, name) for name in parameters]
        if job.kind == "compile" and job.target:
            check_target(exchange.read(*job.needs["model"]), job.target)
        exchange.write(job.kind, stage.function(*arguments, **options), job.out)


def _needed(job: Job, parameter: str) -> Any:
    if parameter in ("calibration_samples", "evaluation_samples"):
        return _samples(job, parameter)
    return exchange.read(*job.needs[parameter])


def _samples(job: Job, parameter: str) -> Any:
    return exchange.read(*job.needs[parameter])[parameter.removesuffix("_samples")]
