"""A real Dask scheduler with real workers on loopback, a process each, for tests of `--cluster`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from waiting import wait_until

STAGE = '''
def nap(model: ir.Model, progress, *, mark: str = "", seconds: float = 0.0, fail: str = "") -> ir.Model:
    """Say where it runs, and take a while the first time; go on at once where `mark` has two lines."""
    print("napping on", os.environ.get("WORKER", "this machine"), flush=True)
    progress(1, 2, "naps")
    if mark:
        with open(mark, "a") as file:
            print(os.getpid(), os.environ.get("WORKER", "here"), file=file)
        if len(Path(mark).read_text().splitlines()) < 2:
            time.sleep(seconds)
    if fail:
        raise ZeroDivisionError(fail)
    model.metadata_props["nap"] = "1"
    return model


def ranged('''


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class DaskCluster:
    """A scheduler on a port of loopback, and workers by name."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        self._start("scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port))
        assert wait_until(lambda: "Scheduler at" in self.log("scheduler"), 60)

    def start_worker(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start a worker without a nanny: who kills its process kills it for good."""
        words = ("--no-nanny", "--nthreads", "2", "--name", name, "--memory-limit", "4GB")
        self._start(name, "dask_worker", self.address, *words, env=env)
        assert wait_until(lambda: "Registered to" in self.log(name), 60)

    def _start(
        self, name: str, module: str, *words: str, env: Mapping[str, str] | None = None
    ) -> None:
        variables = {**os.environ, "WORKER": name, **(env or {})}
        command = [sys.executable, "-m", f"distributed.cli.{module}", *words, "--no-dashboard"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=log
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
