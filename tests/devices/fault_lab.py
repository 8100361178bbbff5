"""A board that can be broken in every way, a run on it, and what must hold afterwards, whatever happened.

The board is this machine behind an sshd of its own, with a home, a Python and a `cat` that tests may spoil.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx.parser
import pytest

from sshd import SSHD, config
from waiting import wait_until

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 32, 32] image) => (float[1, 4] y)
<float[8, 3, 3, 3] w, float[8] b, float[8, 4] g>
{
    c = Conv <pads = [1, 1, 1, 1]> (image, w, b)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = MatMul (f, g)
}
"""
RECIPE = """
name: faults
variables: {rounds: 2}
samples: {npz: {calibration: samples/calibration, evaluation: samples/evaluation}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {float32: [], int8: [symmetric]}
builds: {ort: onnxruntime}
measure: [{latency: {rounds: "${rounds}", values: 5, warmup_s: 0.02, round_s: 1, precision: 0, max_load: 1}}, accuracy, size]
devices: [board]
pareto: {latency_ms: min, size_mb: min}
"""
EXACT = ("agreement", "sqnr_db", "size_mb")  # what no fault may change, not in the last digit
SLOWEST_MS = 1000.0  # the network takes less than one: what is longer was no inference
LONGEST_RUN_S = 150.0  # however busy the machine is: what is not over by then hangs


T = TypeVar("T", bound="Site")


@dataclass
class Ended:
    """How a run ended."""

    status: int
    said: str


@dataclass
class Site:
    """A lab in `folder/host` and its board in `folder`; the board's own things are in `folder/home`."""

    folder: Path
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()  # how to start something on the board: in its network namespace
    port: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # of the device
    beside: dict[str, Any] = field(default_factory=dict)  # its driver
    names: tuple[str, ...] = ("board",)  # in the inventory
    server: subprocess.Popen[bytes] | None = None
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def host(self) -> Path:
        return self.folder / "host"

    @property
    def board(self) -> Path:
        """Where the board keeps what qpipe brought."""
        return self.folder / "home/qpipe"

    # ---- the board

    def build(self) -> None:
        """Its keys, its home, its programs, and the recipe of the lab."""
        for place in ("home", "bin", "host/samples"):
            (self.folder / place).mkdir(parents=True)
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name],
                check=True,
            )
        random = np.random.default_rng(0)
        weights = {
            "w": random.normal(size=(8, 3, 3, 3)),
            "b": random.normal(size=8),
            "g": random.normal(size=(8, 4)),
        }
        model = onnx.parser.parse_model(MODEL)
        del model.graph.initializer[:]
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        )
        onnx.save(model, self.host / "net.onnx")
        for part, count in (("calibration", 8), ("evaluation", 64)):
            (self.host / "samples" / part).mkdir()
            for number in range(count):
                image = random.normal(size=(3, 32, 32)).astype(np.float32)
                np.savez(
                    self.host / "samples" / part / f"{number:02}.npz",
                    allow_pickle=False,
                    image=image,
                )
        (self.host / "recipe.yaml").write_text(RECIPE, encoding="utf-8")

    def start(self, level: int = 2) -> None:
        """Switch it on. With level 0 its shell reads .bashrc, as a user's does."""
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        environment = f"HOME={self.folder}/home PATH={self.folder}/bin:/usr/local/bin:/usr/bin:/bin SHLVL={level}"
        text = config(self.folder, self.port, environment, self.address)
        (self.folder / "sshd_config").write_text(text, encoding="utf-8")
        kind, key = (self.folder / "host_key.pub").read_text(encoding="utf-8").split()[:2]
        (self.folder / "known_hosts").write_text(
            f"[{self.address}]:{self.port} {kind} {key}\n", encoding="utf-8"
        )
        with (self.folder / "sshd_log").open("ab") as log:
            command = [*self.prefix, str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.server = subprocess.Popen(command, stderr=log)
        assert wait_until(self._listens)

    def _listens(self) -> bool:
        log = self.folder / "sshd_log"
        return f"Server listening on {self.address} port {self.port}" in log.read_text(
            encoding="utf-8"
        )

    def cut_power(self) -> None:
        """Nothing of it runs any more, from one moment to the next."""
        for pid in [*self.sessions(), *self.processes()]:
            stop(pid, signal.SIGKILL)
        if self.server:
            self.server.kill()
            self.server.wait()
            (self.folder / "sshd_log").unlink(missing_ok=True)

    def sessions(self) -> list[int]:
        """The server's processes that serve a connection."""
        return _children(self.server.pid) if self.server else []

    def processes(self) -> list[int]:
        """All that was started there, whatever became of who did: agents, guards, runners, a transfer's `cat`."""
        return [pid for pid in _pids() if f"\0HOME={self.folder}/home\0" in _environment(pid)]

    def agents(self) -> list[int]:
        return [
            pid for pid in self.processes() if ".pyz" in _words(pid) and "--root" in _words(pid)
        ]

    def runners(self) -> list[int]:
        return [pid for pid in self.processes() if "run_onnxruntime" in _words(pid)]

    def spoil(self, program: str, script: str) -> Path:
        """A program of the board's own, before the system's."""
        path = self.folder / "bin" / program
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def hold_uploads(self) -> None:
        """Files that are sent there stop on their way, until they are let through."""
        (self.folder / "held").touch()
        waiting = f"while [ -e {self.folder}/held ]; do sleep 0.05; done"
        self.spoil("cat", f'head -c 65536; {waiting}; exec /bin/cat "$@"')

    def await_upload(self) -> None:
        """Until a file is on its way; those after it are not held any more."""
        assert wait_until(lambda: any(path.is_file() for path in self.board.glob("incoming*/**/*")))
        (self.folder / "bin/cat").unlink()

    def let_uploads_through(self) -> None:
        (self.folder / "held").unlink()

    # ---- the run

    def inventory(self) -> None:
        """Write devices.yaml."""
        options = {
            "host": self.address, "port": self.port, "user": getpass.getuser(), "key": str(self.folder / "user_key"),
            "known_hosts": str(self.folder / "known_hosts"), "python": sys.executable, "folder": str(self.board),
            "lock": f"{self.board}.lock", "connect_timeout": 10, "silence_s": 3, "deadline_s": 20, "min_free_mb": 1,
        }  # fmt: skip
        entry = {"ssh": {**options, **self.options}, **self.beside}
        inventory = dict.fromkeys(self.names, entry)
        (self.host / "devices.yaml").write_text(json.dumps(inventory), encoding="utf-8")

    def run(self, *words: str) -> subprocess.Popen[str]:
        """Start a run."""
        return self.run_recipe("recipe.yaml", *words)

    def run_recipe(self, recipe: str, *words: str) -> subprocess.Popen[str]:
        """Start a run of another recipe."""
        self.inventory()
        command = [str(Path(sys.executable).with_name("qpipe")), "run", recipe, *words]
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
        self.runs.append(
            subprocess.Popen(
                command, cwd=self.host, text=True, start_new_session=True, env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        return self.runs[-1]

    def qpipe(self, *words: str) -> None:
        """Another command, which must succeed."""
        subprocess.run(
            [Path(sys.executable).with_name("qpipe"), *words],
            cwd=self.host,
            check=True,
            timeout=LONGEST_RUN_S,
        )

    def finish(self, run: subprocess.Popen[str], seconds: float = LONGEST_RUN_S) -> Ended:
        """Its end, without a traceback."""
        try:
            output, _ = run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            output, _ = run.communicate()
            raise AssertionError(f"not over after {seconds:g} s:\n{output}") from None
        assert "Traceback" not in output, output
        return Ended(run.returncode, output)

    def journalled(self) -> list[tuple[str, int, list[float]]]:
        """The rounds that the host has on disk by now: build, number, values."""
        found = []
        for path in self.host.glob(".qpipe/runs/*/**/rounds.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    found.append((entry["name"], entry["round"], entry["result"]["values_ms"]))
        return found

    def measuring(self, run: subprocess.Popen[str], rounds: int = 2) -> None:
        """Wait until so many rounds were taken, and another one runs."""

        def is_measuring() -> bool:
            return len(self.journalled()) >= rounds and bool(self.runners())

        assert wait_until(lambda: run.poll() is not None or is_measuring(), LONGEST_RUN_S)
        assert run.poll() is None, run.communicate()[0]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What the database says."""
        with closing(sqlite3.connect(self.host / ".qpipe/results.db")) as db:
            return db.execute(sql).fetchall()

    def failures(self) -> set[str]:
        """The types of all that failed on the way, whether it was tried again or not."""
        said = [f for (f,) in self.query("SELECT failure FROM attempts WHERE failure IS NOT NULL")]
        return {
            *said,
            *(f for (f,) in self.query("SELECT failure FROM steps WHERE failure IS NOT NULL")),
        }

    def numbers(self) -> dict[tuple[str, str], float]:
        """What the newest run measured, by scheme and metric."""
        newest = "SELECT id FROM runs ORDER BY started DESC, id DESC LIMIT 1"
        rows = self.query(f"SELECT scheme, metric, value FROM measurements WHERE run = ({newest})")
        return {(scheme, metric): value for scheme, metric, value in rows}

    # ---- what must hold afterwards

    def check_nothing_left(self) -> None:
        """Soon nothing runs there, and nothing half sent lies there."""
        wait_until(lambda: not self.processes())
        remaining = {pid: _words(pid) for pid in self.processes()}
        assert not remaining, f"still runs: {remaining}"
        incoming = [str(path) for path in self.board.glob("incoming*/**/*") if path.is_file()]
        assert not incoming, f"left over: {incoming}"

    def check_numbers(self, right: dict[tuple[str, str], float], *, whole: bool = True) -> None:
        """All (whole) or part of what an undisturbed run measures, and nothing else."""
        found = self.numbers()
        exact = {key: value for key, value in right.items() if key[1] in EXACT}
        assert {key: value for key, value in found.items() if key in exact}.items() <= exact.items()
        assert found.keys() == right.keys() if whole else found.keys() <= right.keys()
        self.check_times()

    def check_times(self) -> None:
        """What was timed were inferences."""
        times = self.query(
            'SELECT "values".value FROM "values" JOIN measurements ON measurement = id WHERE metric = "latency_ms"'
        )
        assert all(0 < value < SLOWEST_MS for (value,) in times), "a number that is no inference's"

    def check_kept(self, before: list[tuple[str, int, list[float]]]) -> None:
        """The rounds that were whole before are those that the end is made of."""
        names = {name for name, _, _ in before}
        whole = [
            number
            for number in {n for _, n, _ in before}
            if {name for name, n, _ in before if n == number} == names
        ]
        stored = {value for (value,) in self.query('SELECT value FROM "values"')}
        for name, number, values in before:
            if number in whole and len(names) > 1:
                assert set(values) <= stored, f"round {number} of {name} was lost"

    def end(self) -> None:
        """Leave nothing of it."""
        for run in self.runs:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            if run.stdout:
                run.stdout.close()
        self.cut_power()


def make(folder: Path, **fields: Any) -> Site:
    """A site that is ready and switched on."""
    site = Site(folder, **fields)
    site.build()
    site.start()
    return site


def copy(prepared: Site, folder: Path, kind: type[T] = Site, **fields: Any) -> T:  # type: ignore[assignment]
    """Another board, and a lab that has computed on the host what `prepared` has."""
    site = kind(folder, **fields)
    site.folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "host_key.pub", "user_key", "user_key.pub"):
        shutil.copy(prepared.folder / name, folder / name)
    for place in ("home", "bin"):
        (folder / place).mkdir()
    shutil.copytree(prepared.host / "samples", site.host / "samples")
    shutil.copytree(prepared.host / ".qpipe/cache", site.host / ".qpipe/cache")
    for name in ("net.onnx", "recipe.yaml"):
        shutil.copy(prepared.host / name, site.host / name)
    for path in site.host.glob(".qpipe/cache/measure/*"):
        shutil.rmtree(path)  # accuracy is measured anew
    site.start()
    return site


def stop(pid: int, how: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, how)


def _pids() -> Iterator[int]:
    return (
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and int(each.name) != os.getpid()
    )


def _words(pid: int) -> str:
    """Its command line, and where it works."""
    try:
        line = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        return f"{line} {Path(f'/proc/{pid}/cwd').readlink()}"
    except OSError:
        return ""


def _environment(pid: int) -> str:
    try:
        return f"\0{Path(f'/proc/{pid}/environ').read_text(encoding='utf-8', errors='replace')}"
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    """Its children, and theirs, as long as they are sshd's."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:
        return []
    own = [int(word) for word in text.split() if "sshd" in _words(int(word))]
    return own + [each for child in own for each in _children(child)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site where nothing happened: what it measured is right, what it computed on the host need not be again."""
    site = make(tmp_path_factory.mktemp("undisturbed"))
    ended = site.finish(site.run())
    assert ended.status == 0, ended.said
    site.check_nothing_left()
    yield site
    site.end()
