"""What the tests share: a real sshd on loopback, and what the machine is."""

from __future__ import annotations

import functools
import gc
import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from machine import describe_machine
from sshd import SSHD, config
from waiting import wait_until

# how long an example takes, or making one, says something of the machine alone
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a module that says xdist_group to one worker, and these first.

    pytest-xdist 3.8 writes the group into the id of a test, which pytest 9.2 does not let it: its
    own loadgroup puts no two tests together.
    """
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def is_group(module: str) -> bool:
        return "xdist_group" in (config.rootpath / module).read_text(encoding="utf-8")

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if is_group(module) else nodeid

    return Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, in random order: one that came last would keep one processor waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collections: going through it takes a tenth of a second each time."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Say which machine this is: results of integer kernels and durations depend on it."""
    return f"machine: {describe_machine()}"


@dataclass(frozen=True)
class Sshd:
    """A server that lets this user in by `key`; `known_hosts` has its host key. `python` has numpy and onnxruntime."""

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path
    host_key: Path
    python: str = sys.executable
    process: int = 0

    def options(self, folder: Path) -> dict[str, object]:
        """The options of an ssh device that keeps its things in `folder`."""
        return {
            "host": self.host, "port": self.port, "user": self.user, "key": self.key,
            "known_hosts": self.known_hosts, "python": self.python, "folder": str(folder),
            "lock": f"{folder}.lock",
        }  # fmt: skip


@pytest.fixture(scope="session")
def start_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Starts real servers on loopback, for this user, with host keys of these types; they end with the tests."""
    if SSHD is None:
        pytest.skip("no sshd is installed: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
    servers: list[subprocess.Popen[bytes]] = []

    def start(*kinds: str, environment: str = "SHLVL=2") -> Sshd:
        folder = tmp_path_factory.mktemp("sshd")
        keys = {
            folder / ("host_key" if index == 0 else f"host_key_{kind}"): kind
            for index, kind in enumerate(kinds)
        }
        for key, kind in {**keys, folder / "user_key": "ed25519"}.items():
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        more = "".join(f"HostKey {key}\n" for key in list(keys)[1:])
        (folder / "config").write_text(config(folder, port, environment) + more, encoding="utf-8")
        kind, text = (folder / "host_key.pub").read_text(encoding="utf-8").split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {text}\n", encoding="utf-8")
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", folder / "config"], stderr=log)
        servers.append(server)
        _wait_for(port, server, folder / "log")
        places = folder / "user_key", folder / "known_hosts", folder / "host_key"
        return Sshd("127.0.0.1", port, getpass.getuser(), *places, process=server.pid)

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    """A real sshd on loopback, for this user."""
    return start_sshd("ed25519")


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    def listens() -> bool:
        return f"Server listening on 127.0.0.1 port {port}" in log.read_text(encoding="utf-8")

    assert wait_until(lambda: listens() or server.poll() is not None)
    assert server.poll() is None, log.read_text(encoding="utf-8")
