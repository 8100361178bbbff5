"""What runs on the board that is this machine, and waiting for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

# a runner with a child of its own, both deaf to the end of their input
DEAF = """
import subprocess, sys, time
from qpipe_agent import wire
source, sink = wire.claim()
wire.read(source)
wire.write(sink, {"load_ms": 1.0, "runtime_mb": 1.0, "inputs": ["image"], "outputs": ["y"]})
wire.read(source)
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
    return [each for each in running(folder) if "--root" in Path(f"/proc/{each}/cmdline").read_text(encoding="utf-8")]


def wait_until(true: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return bool(true())


def when(true: Callable[[], bool], do: Callable[[], object]) -> threading.Thread:
    """Do it as soon as it is true."""

    def watch() -> None:
        while not true():
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
