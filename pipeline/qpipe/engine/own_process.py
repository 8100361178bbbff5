"""A function in a process of its own: where a library crashes there, it is one line here."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from qpipe.engine.worker import (
    EXIT_S,
    describe_exit,
    end_with_parent,
    forkserver,
    without_main_module,
)
from qpipe.errors import QpipeError, StageError

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Notify = Callable[[str], None]
FIX = "a library crashed on it; try it in stock ONNX Runtime, or export it in another way"


@dataclass(frozen=True)
class _End:
    """The last message of the process: what the function gave, or raised."""

    result: Any = None
    error: Exception | None = None
    trace: str = ""


def run_in_own_process(
    function: Callable[[Argument, Notify], Result], argument: Argument, notify: Notify, where: str
) -> Result:
    """Return what a function of a module gives for an argument; `notify` gets its messages.

    It raises what the function raises. Where its process ends without an answer, raise StageError,
    which begins with `where`.
    """
    context = forkserver()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(function, argument, sender), daemon=True)
    with without_main_module():
        process.start()
    sender.close()
    try:
        end = _await_end(receiver, notify)
    except EOFError:
        process.join()
        reason = describe_exit(process.exitcode).reason
        raise StageError(f"{where}: {reason}; {FIX}", failure="bug") from None
    except KeyboardInterrupt:
        process.join(1)  # a terminal has interrupted it, too
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
        raise
    finally:
        process.join(EXIT_S)
        if process.is_alive():
            process.kill()
        receiver.close()
    if end.error is not None:
        if not isinstance(end.error, QpipeError):
            end.error.add_note(end.trace)
        raise end.error
    return cast("Result", end.result)


def _await_end(receiver: Connection, notify: Notify) -> _End:
    while True:
        message = receiver.recv()
        if isinstance(message, _End):
            return message
        notify(message)


def _run(
    function: Callable[[Argument, Notify], Result], argument: Argument, connection: Connection
) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        end = _End(function(argument, connection.send))
    except KeyboardInterrupt:
        return
    except Exception as error:  # noqa: BLE001  (the caller handles it, as if it had raised it itself)
        end = _End(error=_picklable(error), trace=traceback.format_exc())
    connection.send(end)


def _picklable(error: Exception) -> Exception:
    """Return an error that another process can read."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (what was written in the line itself)
    except Exception:  # noqa: BLE001  (whatever the class of a foreign error needs)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
