"""A real Dask scheduler with real workers on loopback, a process each, for tests of `--cluster`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
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
    protocol: str = "tcp"
    words: tuple[str, ...] = ()  # of all commands
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.protocol}://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        words = ("--protocol", self.protocol, "--host", "127.0.0.1", "--port", str(self.port))
        self._start("scheduler", "dask_scheduler", *words)
        assert wait_until(lambda: "Scheduler at" in self.log("scheduler"), 60)

    def start_worker(
        self,
        name: str,
        env: Mapping[str, str] | None = None,
        *,
        address: str = "",
        prefix: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
    ) -> None:
        """Start a worker without a nanny: who kills its process kills it for good."""
        words = ("--no-nanny", "--nthreads", "2", "--name", name, "--memory-limit", "4GB", *words)
        address = address or self.address
        self._start(name, "dask_worker", address, *words, env=env, prefix=prefix)
        assert wait_until(lambda: "Registered to" in self.log(name), 60)

    def _start(
        self,
        name: str,
        module: str,
        *words: str,
        env: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        variables = {**os.environ, "WORKER": name, **(env or {})}
        python = (*prefix, sys.executable, "-m", f"distributed.cli.{module}")
        command = [*python, *words, *self.words, "--no-dashboard"]
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


class Line:
    """A port of loopback that leads to another, until it is cut: then nothing passes or ends."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_cut = threading.Event()
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if not self.is_cut.is_set():
                    target.sendall(content)

    def cut(self) -> None:
        """Let nothing pass any more; both ends stay open."""
        self.is_cut.set()

    def close(self) -> None:
        for end in (self.listener, *self.ends):
            end.close()
