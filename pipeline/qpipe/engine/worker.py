"""A step of the host in a process of its own: what ends that process ends nothing else."""

from __future__ import annotations

import errno
import importlib.metadata
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from qpipe.engine import engine_stages, host_step
from qpipe.engine.host_step import StepInputs
from qpipe.errors import Failure, QpipeError, StageError, shown
from qpipe.recipe.stage_call import Call, calls_from_names
from qpipe.stages import registry
from qpipe.storage.folder_lock import lock_folder
from qpipe.types import Progress

EXIT_S = 5.0  # a step's process has so many seconds to end once its result is written
LONGEST_REASON = 300  # characters kept of the text of somebody else's error
_MAIN_MODULE_LOCK = threading.Lock()
TICK_S = 0.2  # progress is passed on at most so often


@dataclass(frozen=True)
class StepRequest:
    """Everything that a host step needs, in a form that crosses to another process."""

    step: str
    kind: str
    stage: str
    options: Mapping[str, Any]
    inputs: StepInputs
    out: Path  # an empty folder for the result
    log: Path
    plugins: Sequence[Path] = ()
    # the workdir, which the next attempt gets again where this one is killed; None for a temporary
    scratch: Path | None = None


@dataclass(frozen=True)
class ProgressMessage:
    """What a worker sends while it works."""

    done: float
    total: float | None
    unit: str


@dataclass(frozen=True)
class EndMessage:
    """The last message of a worker; without a reason the step is done."""

    reason: str | None = None
    failure: Failure = "bug"


def run_in_worker(
    request: StepRequest, progress: Progress, is_cancelled: Callable[[], bool]
) -> None:
    """Carry out a step in a fresh process.

    Raise StageError with the reason where it fails or is killed, KeyboardInterrupt where
    `is_cancelled` becomes true.
    """
    context = forkserver()
    receiver, sender = context.Pipe(duplex=False)
    process = _start_process(context, request, sender)
    sender.close()
    end: EndMessage | None = None
    try:
        end = _await_end(receiver, progress, is_cancelled)
    except EOFError:
        process.join()
        end = describe_exit(process.exitcode)
    finally:
        is_done = end is not None and end.reason is None
        process.join(EXIT_S if is_done else 0)
        if process.is_alive():  # a thread of a library may keep it from ending
            process.kill()
            process.join()
        receiver.close()
        _remove_unused_scratch(request.scratch)
    if end.reason is not None:
        raise StageError(end.reason, failure=end.failure)


def _start_process(
    context: ForkServerContext, request: StepRequest, sender: Connection
) -> ForkServerProcess:
    process = context.Process(
        target=_run_worker, args=(request, sender), name=request.step, daemon=True
    )
    try:
        with without_main_module():
            process.start()
    except (EOFError, OSError) as error:
        # the server that forks the processes has ended: memory, or a plugin that ends Python
        reason = str(error) or type(error).__name__
        raise StageError(
            f"no process to run it in: {reason}; "
            "free memory, and look whether all plugins load: qpipe plugins",
            failure="out of memory",
        ) from error
    return process


@contextmanager
def without_main_module() -> Iterator[None]:
    """Keep multiprocessing from running the user's script again in the new process.

    A step needs nothing of it, and a script that calls qpipe would start itself over and over.
    """
    with _MAIN_MODULE_LOCK:
        main_module = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main_module


def _await_end(
    receiver: Connection, progress: Progress, is_cancelled: Callable[[], bool]
) -> EndMessage:
    """Pass on progress until the worker sends its last message; EOFError where it sends none."""
    while True:
        if is_cancelled():
            raise KeyboardInterrupt
        if not receiver.poll(TICK_S):
            continue
        message = receiver.recv()
        if isinstance(message, EndMessage):
            return message
        progress(message.done, message.total, message.unit)


def describe_exit(status: int | None) -> EndMessage:
    """Return why a process ended without a last message.

    A crash in a library is a bug there; a signal from outside may pass by itself.
    """
    if status is None or status >= 0:
        return EndMessage(f"its process ended with status {status}", "bug")
    name = signal.Signals(-status).name
    reason = f"its process was ended by {name}"
    if name == "SIGKILL":
        return EndMessage(f"{reason}; likely out of memory", "out of memory")
    if name in ("SIGTERM", "SIGHUP", "SIGINT"):
        return EndMessage(reason, "died")
    return EndMessage(reason, "bug")


@cache
def forkserver() -> ForkServerContext:
    """Return the way to start processes: forked from a clean server with the heavy imports done.

    A step starts in milliseconds, and threads of the main process (connections, ONNX Runtime) are
    never copied.
    """
    context = multiprocessing.get_context("forkserver")
    modules = {entry.module for entry in importlib.metadata.entry_points(group="qpipe")}
    built_in = sorted(module for module in modules if module.startswith("qpipe_"))
    context.set_forkserver_preload(["qpipe.engine.worker", "onnx_ir", "onnxruntime", *built_in])
    return context


# ---- in the step's process


def _run_worker(request: StepRequest, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        place = shown(request.log)
        reason = f"{place}: {error.strerror}; free space, or check the permissions"
        connection.send(EndMessage(reason, failure_of_os_error(error)))
        return
    os.dup2(log, 1)
    os.dup2(log, 2)
    connection.send(_carry_out(request, _ThrottledProgress(connection)))


def _carry_out(request: StepRequest, progress: Progress) -> EndMessage:
    try:
        run_request(request, progress)
    except QpipeError as error:
        if error.__cause__ is not None:  # the log gets the library's own error in full
            _log_traceback()
        return EndMessage(str(error), error.failure)
    except MemoryError:
        reason = "out of memory; give it fewer samples, or a machine with more"
        return EndMessage(reason, "out of memory")
    except OSError as error:
        _log_traceback()
        reason = _describe_error(request, error)
        return EndMessage(reason, failure_of_os_error(error))
    except Exception as error:  # noqa: BLE001  (foreign code: any failure of a stage is that step's alone)
        _log_traceback()
        reason = _describe_error(request, error)
        return EndMessage(reason, "bug")
    return EndMessage()


def _log_traceback() -> None:
    """Write the error that is handled into the log of the step, if the disk takes it."""
    with suppress(OSError):
        traceback.print_exc()


def run_request(request: StepRequest, progress: Progress) -> None:
    """Look the stage up, and carry out the step in this process."""
    plugins = registry.load(request.plugins)
    stage = engine_stages.STAGES.get(request.kind)
    if stage is None:
        stage = plugins.stage(request.kind, request.stage)
    options = Call(stage, calls_from_names(request.options, plugins)).resolved()
    with _open_workdir(request.scratch) as workdir:
        host_step.run_stage(
            stage, options, request.inputs, workdir=workdir, out=request.out, progress=progress
        )


def _describe_error(request: StepRequest, error: BaseException) -> str:
    return describe_stage_error(error, kind=request.kind, stage=request.stage, log=request.log)


def end_with_parent() -> None:
    """Wait for the end of the parent process, and end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


class _ThrottledProgress:
    """Sends progress to the parent, at most once a tick."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.last_sent = 0.0

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None:
        now = time.monotonic()
        if now - self.last_sent >= TICK_S:
            self.last_sent = now
            self.connection.send(ProgressMessage(done, total, unit))


# ---- failures


def failure_of_os_error(error: OSError) -> Failure:
    """Return the type of a failure that the operating system reported."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no room"
    if error.errno == errno.ENOMEM:
        return "out of memory"
    return "configuration"


def describe_stage_error(error: BaseException, *, kind: str, stage: str, log: Path) -> str:
    """Return a stage's unexpected error in one line; its traceback is in the log of the step."""
    name = kind if kind == stage else f"{kind} {stage}"
    reason = " ".join(str(error).split())
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]} ..."
    place = shown(log.resolve())
    return f"{name} broke: {type(error).__name__}: {reason}; see {place}"


# ---- the workdir


@contextmanager
def _open_workdir(scratch: Path | None) -> Iterator[Path]:
    """Give the step a folder to itself, and remove it however the step ends.

    A step that is killed leaves in `scratch` what it wrote there, for the next attempt to go on
    from. Where no scratch is given, or another process uses it, the folder is a temporary one.
    """
    with ExitStack() as stack:
        if scratch is None or not _take_scratch(scratch, stack):
            temporary = tempfile.TemporaryDirectory(prefix="qpipe-")
            yield Path(stack.enter_context(temporary))
            return
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _take_scratch(scratch: Path, stack: ExitStack) -> bool:
    """Make and lock the folder of a step; return whether this process has it now."""
    scratch.mkdir(parents=True, exist_ok=True)
    is_locked = lock_folder(scratch, stack)
    if is_locked:
        os.utime(scratch)  # the cache removes what no process has used for a day
    return is_locked


def _remove_unused_scratch(scratch: Path | None) -> None:
    """Remove the workdir of a step that was killed before it wrote anything there."""
    if scratch is None or not scratch.is_dir():
        return
    with ExitStack() as stack, suppress(OSError):
        if lock_folder(scratch, stack):
            scratch.rmdir()
