"""What runs on the board that is this machine, and what is done at the moment something is so."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from waiting import wait_until

# a runner with a child of its own, both deaf to the end of their input
DEAF = """
import subprocess, sys, time
from qpipe_agent import wire
source, sink = wire.claim()
wire.read_message(source)
wire.write_message(sink, {"load_ms": 1.0, "runtime_mb": 1.0, "inputs": ["image"], "outputs": ["y"]})
wire.read_message(source)
subprocess.Popen(["sleep", "300"])
time.sleep(300)
"""


def running(folder: Path) -> list[int]:
    """The processes that have this folder in their command line or as their working directory."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in line or str(folder) in str((process / "cwd").readlink()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def agents(folder: Path) -> list[int]:
    """Those of them that are agents."""
    return [pid for pid in running(folder) if "--root" in command_line(pid)]


def command_line(pid: int) -> str:
    """The words of a process, which may be gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def when(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do it as soon as the condition holds."""

    def watch() -> None:
        if wait_until(condition):
            action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
