"""A small process that outlives the agent by a moment.

Where the agent was killed, it ends the runners and restores what was set for their round.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from .round_settings import RoundSettings

# by this variable a host finds and ends all that it started over SSH; the guard ends by itself
CALL_MARK = "QPIPE_CALL"


class Guard:
    """The agent's end of the guard process.

    The guard knows the process groups to end, and in `folder` what to restore, when the agent ends
    for any reason. It keeps the file descriptors `lease_locks` open until it has ended them, so
    that nobody is given the device before.
    """

    def __init__(
        self, environment: Mapping[str, str], *, lease_locks: Sequence[int], folder: Path
    ) -> None:
        variables = {name: value for name, value in environment.items() if name != CALL_MARK}
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", __name__],
            env=variables,
            cwd="/",
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=tuple(lease_locks),
        )
        self._send_line(json.dumps(str(folder)))

    def watch(self, group: int) -> None:
        """End this process group when the agent ends."""
        self._send_line(f"+{group}")

    def forget(self, group: int) -> None:
        """Forget a process group that has ended; the system may reuse its number."""
        self._send_line(f"-{group}")

    def _send_line(self, line: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # the guard was killed: the agent goes on without it
            os.write(self.process.stdin.fileno(), line.encode() + b"\n")


def main(source: IO[str]) -> None:
    """Read from the agent until it ends; then end its runners and restore its settings."""
    folder = json.loads(source.readline() or "null")
    groups: set[int] = set()
    for line in source:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    if folder is not None:
        RoundSettings(Path(folder))


if __name__ == "__main__":
    main(sys.stdin)
