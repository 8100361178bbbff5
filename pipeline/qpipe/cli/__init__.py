"""The command line: parse, call, print. Only its modules print, and only here errors become a line.

One file a command, named as the command; the rest holds what several commands share.
"""

from __future__ import annotations

import errno
import logging
import sys
from typing import Any

# the path that the user gave cannot be used
UNUSABLE_PATH = (
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
# the machine has run out of something, or its disk fails
OUT_OF_RESOURCES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
)


def main() -> None:
    """Run the `qpipe` command.

    Exit status: 0 success, 1 failed steps or a failed device, 2 wrong input,
    3 a verdict of `compare --fail-on`, 130 interrupted.
    """
    import typer

    from qpipe.cli.app import app
    from qpipe.errors import DeviceError, QpipeError, StageError

    # typer gives no public name to the base of its errors
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]

    # what devices report goes to the logs of steps
    logging.getLogger("qpipe_devices").setLevel(logging.INFO)
    try:
        sys.exit(app(prog_name="qpipe", standalone_mode=False))
    except usage_error as error:
        _exit_with_usage(error)
    except typer.Abort:
        _exit_with_error("aborted", 1)
    except (StageError, DeviceError) as error:
        _exit_with_error(str(error), 1)
    except QpipeError as error:
        _exit_with_error(str(error), 2)
    except BrokenPipeError:
        # the reader of our output is gone, as with `| head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno in UNUSABLE_PATH:
            advice = "give another path, or check its permissions"
            _exit_with_error(_describe_os_error(error, advice), 2)
        if error.errno in OUT_OF_RESOURCES:
            advice = "free some space, and run the command again"
            _exit_with_error(_describe_os_error(error, advice), 1)
        raise


def _describe_os_error(error: OSError, advice: str) -> str:
    """Return one line fit for a terminal: the file, what is wrong, and what to do."""
    from qpipe.errors import QpipeError

    reason = (error.strerror or "").lower()
    return str(QpipeError(f"{error.filename or 'a file'}: {reason}; {advice}"))


def _exit_with_usage(error: Any) -> None:
    """Say in one line what is wrong with a command; without any argument, help was the answer."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx else "qpipe"
    where = "".join(f"{word} " for word in command.split()[1:]).rstrip()
    text = error.format_message().rstrip(".").replace("Value error, ", "")
    text = text.replace(". Did you", "; did you").replace(": Input", ": input")
    text = text[:1].lower() + text[1:]
    if not text.endswith("?"):
        text += f"; see: {command} --help"
    _exit_with_error(f"{where}: {text}" if where else text, 2)


def _exit_with_error(message: str, status: int) -> None:
    print(f"qpipe: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(status)
