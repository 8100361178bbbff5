"""The command line: parse, call, print. The only place that prints, and the one place where errors become one line."""

from __future__ import annotations

import errno
import logging
import sys

# a place that was named and does not serve; the machine's own want
UNFIT = (
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)


def main() -> None:
    """The `qpipe` command. Exit status: 0 good, 1 failed steps or a failed device, 2 wrong input, 130 interrupted."""
    from qpipe.cli.app import app
    from qpipe.errors import DeviceError, QpipeError, StageError

    logging.getLogger("qpipe_devices").setLevel(
        logging.INFO
    )  # what boards say goes to the logs of steps
    try:
        app(prog_name="qpipe")
    except (StageError, DeviceError) as error:
        _stop(error, 1)
    except QpipeError as error:
        _stop(error, 2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `| head` does
        sys.exit(1)
    except OSError as error:
        if error.errno not in (*UNFIT, *SHORT):
            raise
        fix = (
            "give another place, or check its permissions"
            if error.errno in UNFIT
            else "make room, and go on"
        )
        what = f"{error.filename or 'a file'}: {(error.strerror or '').lower()}; {fix}"
        _stop(QpipeError(what), 2 if error.errno in UNFIT else 1)


def _stop(error: Exception, status: int) -> None:
    print(f"qpipe: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(status)
