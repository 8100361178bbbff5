"""A small process that outlives the agent by a moment: it ends the runners of an agent that was killed, and puts back
what was set for their round."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Mapping, Sequence, Set  # noqa: UP035  (Python 3.8 on the board)

from .round_settings import Settings

MARK = "QPIPE_CALL"  # by which a host ends all that it started through SSH; this ends by itself, when it is done


class Guard:
    """Knows the process groups to end, and in `folder` what to put back, when this process ends, however that comes
    about.

    It holds `kept` (file descriptors: the lease) open until it has ended them, so that nobody gets the device before.
    """

    def __init__(self, environment: Mapping[str, str], kept: Sequence[int], folder: Path) -> None:
        own = {name: value for name, value in environment.items() if name != MARK}
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", __name__],
            env=own,
            cwd="/",
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=tuple(kept),
        )
        self._say(json.dumps(str(folder)))

    def watch(self, group: int) -> None:
        """End this process group when the agent ends."""
        self._say(f"+{group}")

    def forget(self, group: int) -> None:
        """It has ended; its number may come to mean another."""
        self._say(f"-{group}")

    def _say(self, line: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # somebody killed the guard: the agent goes on without
            os.write(self.process.stdin.fileno(), line.encode() + b"\n")


def main(source: IO[str]) -> None:
    """Listen to the agent until its end, then end what it left and put back what it set."""
    folder = json.loads(source.readline() or "null")
    groups: Set[int] = set()  # noqa: UP006
    for line in source:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    if folder is not None:
        Settings(Path(folder))


if __name__ == "__main__":
    main(sys.stdin)
