"""The command line: parse, call, print. Only its modules print, and only here errors become a line.

One file a command, named as the command; the rest holds what several commands share.
"""

from __future__ import annotations

import errno
import logging
import sys

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
    from qpipe.cli.app import app
    from qpipe.errors import DeviceError, QpipeError, StageError

    # what devices report goes to the logs of steps
    logging.getLogger("qpipe_devices").setLevel(logging.INFO)
    try:
        app(prog_name="qpipe")
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


def _exit_with_error(message: str, status: int) -> None:
    print(f"qpipe: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(status)
