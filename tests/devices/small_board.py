"""A board with dropbear and busybox, as small Linux systems have them; in a mount namespace of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from waiting import ended_at_last, wait_until

DROPBEAR = shutil.which("dropbear", path=os.environ.get("PATH", "") + ":/usr/sbin")
BUSYBOX = shutil.which("busybox")
# all that the driver runs on a board besides Python
PROGRAMS = ("env", "sh", "cat", "grep", "tr", "xargs", "wc")
START = """
set -e
mount --make-rprivate /
mount --bind {folder}/passwd /etc/passwd
for program in {programs}; do mount --bind {busybox} "$program"; done
exec {dropbear} -F -E -s -p 127.0.0.1:{port} -P {folder}/pid -r {folder}/host_key
"""


@dataclass(frozen=True)
class SmallBoard:
    """A dropbear that lets root in by a key of its own."""

    folder: Path
    port: int

    def options(self, python: str, folder: Path) -> dict[str, object]:
        """The options of an ssh device that keeps its things in `folder`."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "key": self.folder / "user_key",
            "known_hosts": self.folder / "known_hosts",
            "python": python,
            "folder": str(folder),
            "lock": f"{folder}.lock",
        }


@pytest.fixture(scope="session")
def small_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallBoard]:
    """A real dropbear on loopback whose users have busybox."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("dropbear")) as board:
        yield board


def why_not() -> str:
    """Why there can be no such board here; "" where there can."""
    if DROPBEAR is None or BUSYBOX is None:
        return "needs dropbear and busybox: apt-get install dropbear-bin busybox-static"
    if os.getuid() != 0:
        return "binds files over the system's: needs root"
    bind = "mount --make-rprivate / && mount --bind /etc/passwd /etc/passwd"
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", bind], capture_output=True)
    return "" if tried.returncode == 0 else "no mount namespace can be made here"


@contextmanager
def started(folder: Path) -> Iterator[SmallBoard]:
    """The server for root, with a home folder of its own: dropbear takes keys only from there."""
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    for private in (home, home / ".ssh"):
        private.chmod(0o700)
    key = folder / "user_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(key.with_suffix(".pub"), home / ".ssh/authorized_keys")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _make_host_key(folder, port)
    users = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()
    users = [line for line in users if not line.startswith("root:")]
    users.insert(0, f"root:x:0:0:root:{home}:/bin/sh")
    (folder / "passwd").write_text("\n".join(users) + "\n", encoding="utf-8")
    programs = " ".join(sorted({os.path.realpath(str(shutil.which(name))) for name in PROGRAMS}))
    script = START.format(
        folder=folder, port=port, programs=programs, busybox=BUSYBOX, dropbear=DROPBEAR
    )
    command = ["unshare", "--mount", "bash", "-c", script]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stderr=log)
    with ended_at_last(server):
        assert wait_until(lambda: (folder / "pid").exists() or server.poll() is not None)
        assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")
        yield SmallBoard(folder, port)


def _make_host_key(folder: Path, port: int) -> None:
    command = ["dropbearkey", "-t", "ed25519", "-f", str(folder / "host_key")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (public,) = [line for line in printed.splitlines() if line.startswith("ssh-ed25519 ")]
    known = f"[127.0.0.1]:{port} {public}\n"
    (folder / "known_hosts").write_text(known, encoding="utf-8")


@pytest.fixture(scope="session")
def python38() -> str:
    """The oldest Python that a board may have, with nothing but its standard library."""
    installed = Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8")
    for program in [shutil.which("python3.8"), *map(str, installed)]:
        if program and subprocess.run([program, "-V"], capture_output=True).returncode == 0:
            return program
    pytest.skip("there is no python3.8")
