"""A step of the host, run in a process of its own: what kills it kills nothing else."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qpipe.engine import engine_stages, stage_results
from qpipe.errors import Failure, QpipeError, StageError
from qpipe.quant.target_check import check_target
from qpipe.recipe import yaml_document
from qpipe.recipe.stage_call import Call, found
from qpipe.stages import registry
from qpipe.stages.options import needs
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
    scratch: Path | None = (
        None  # where its workdir lies while it is made: one that was killed finds it again
    )


def run(job: Job, progress: Progress, cancelled: Callable[[], bool]) -> None:
    """Run the job in a fresh process; StageError with its reason when it fails or is killed."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, theirs), name=job.step, daemon=True)
    try:
        process.start()
    except (
        EOFError,
        OSError,
    ) as error:  # the server that forks them has ended: memory, or a plugin that ends Python
        reason = f"no process to run it in: {error or type(error).__name__}"
        fix = "free memory, and look whether all plugins load: qpipe plugins"
        raise StageError(f"{reason}; {fix}", failure="out of memory") from error
    theirs.close()
    failed: tuple[str, Failure] | None = ("it ended without a word", "bug")
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
            failed = message[1]
            break
    except EOFError:
        process.join()
        failed = _died(process.exitcode)
    finally:
        process.join(0 if failed else ENDING_S)
        if process.is_alive():  # a thread of the stage's library may not want to end
            process.kill()
            process.join()
        ours.close()
        _forget_empty(job.scratch)
    if failed is not None:
        reason, kind = failed
        raise StageError(reason, failure=kind)


def _died(status: int | None) -> tuple[str, Failure]:
    """Why a process ended that had not said so, and the type of that: what crashes in a library is a bug there."""
    if status is None or status >= 0:
        return f"its process ended with status {status}", "bug"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return f"its process was ended by {name}; likely out of memory", "out of memory"
    return f"its process was ended by {name}", "died" if name in (
        "SIGTERM",
        "SIGHUP",
        "SIGINT",
    ) else "bug"


@cache
def _context() -> Any:
    # forked from a clean server that has the heavy imports done: a step starts in milliseconds, and threads of ours
    # (connections, ONNX Runtime) are never copied
    context = multiprocessing.get_context("forkserver")
    modules = {entry.module for entry in importlib.metadata.entry_points(group="qpipe")}
    built_in = sorted(module for module in modules if module.startswith("qpipe_"))
    context.set_forkserver_preload(["qpipe.engine.worker", "onnx_ir", "onnxruntime", *built_in])
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
        if error.__cause__ is not None:  # what a library said, in full
            traceback.print_exc()
        connection.send(("failed", (str(error), error.failure)))
    except MemoryError:
        reason = "out of memory; give it fewer samples, or a machine with more"
        connection.send(("failed", (reason, "out of memory")))
    except OSError as error:
        traceback.print_exc()
        connection.send(("failed", (broke(job.kind, job.stage, job.log, error), of_system(error))))
    except Exception as error:  # noqa: BLE001  (foreign code: any failure of a stage is that step's alone)
        traceback.print_exc()
        connection.send(("failed", (broke(job.kind, job.stage, job.log, error), "bug")))
    else:
        connection.send(("done", None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def of_system(error: OSError) -> Failure:
    """The type of what the operating system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no room"
    return "out of memory" if error.errno == errno.ENOMEM else "configuration"


def broke(kind: str, stage: str, log: Path, error: BaseException) -> str:
    """How a stage's own failure is told, in one line; its traceback is in the step's log."""
    name = kind if kind == stage else f"{kind} {stage}"
    text = " ".join(str(error).split())
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return (
        f"{name} broke: {type(error).__name__}: {shown}; see {yaml_document.shown(log.resolve())}"
    )


class _Throttled:
    """Sends progress to the parent, not more often than it is looked at."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.last = 0.0

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None:
        now = time.monotonic()
        if now - self.last >= TICK_S:
            self.last = now
            self.connection.send(("progress", done, total, unit))


def call(job: Job, progress: Progress) -> None:
    """Bring what the stage needs, call it, write what it gives."""
    plugins = registry.load(job.plugins)
    stage = engine_stages.STAGES.get(job.kind) or plugins.stage(job.kind, job.stage)
    options = Call(stage, found(job.options, plugins)).resolved()
    with _workdir(job.scratch) as workdir:
        brought = {
            "progress": progress,
            "workdir": job.out if job.kind == "compile" else workdir,
            "target": job.target,
            "platform": job.platform,
        }
        parameters = needs(stage.function)
        arguments = [
            brought[name] if name in brought else _needed(job, name) for name in parameters
        ]
        if job.kind == "compile" and job.target:
            check_target(stage_results.read(*job.needs["model"]), job.target)
        stage_results.write(job.kind, stage.function(*arguments, **options), job.out)


@contextmanager
def _workdir(scratch: Path | None) -> Iterator[Path]:
    """The step's own folder, removed however the step ends; only who is killed leaves what it wrote there, to go on
    from. Empty and temporary where no scratch is given, or another process is at it."""
    with ExitStack() as stack:
        if scratch is None or not _claim(scratch, stack):
            yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpipe-")))
            return
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _claim(folder: Path, stack: ExitStack) -> bool:
    """Whether the folder is ours alone until the stack unwinds; a lock on it falls with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, opened)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(folder)  # the cache sweeps away what nobody came back to for a day
        return os.path.samestat(os.fstat(opened), folder.stat())
    except OSError:  # locked, or removed meanwhile by who had the lock
        return False


def _forget_empty(scratch: Path | None) -> None:
    """Remove the workdir of a step that was killed before it wrote anything there."""
    with ExitStack() as stack, suppress(OSError):
        if scratch is not None and scratch.is_dir() and _claim(scratch, stack):
            scratch.rmdir()


def _needed(job: Job, parameter: str) -> Any:
    if parameter in ("calibration_samples", "evaluation_samples"):
        return _samples(job, parameter)
    return stage_results.read(*job.needs[parameter])


def _samples(job: Job, parameter: str) -> Any:
    return stage_results.read(*job.needs[parameter])[parameter.removesuffix("_samples")]
