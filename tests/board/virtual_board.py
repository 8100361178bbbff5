"""A virtual ARM64 board in QEMU: boots in seconds, or wakes from a snapshot in one; dies when told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from building import BoardError, build, check_tools

TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm ipxe-qemu", "qemu-img": "qemu-utils", "ssh": "openssh-client"
}  # fmt: skip
BOOT_S = 180.0


def home() -> Path:
    """Where boards are kept: QPIPE_BOARD, or ~/.cache/qpipe-board."""
    return Path(os.environ.get("QPIPE_BOARD", "~/.cache/qpipe-board")).expanduser()


@dataclass(frozen=True)
class Machine:
    """What a board is made of. A snapshot wakes only in the machine it was taken of.

    cortex-a53 and cortex-a72 have no dot product, cortex-a76 and neoverse-n1 have it. With `counted` an instruction
    takes a nanosecond, whatever it does and however busy this computer is: repeatable, and no processor's time.
    """

    cpu: str = "cortex-a76"
    cores: int = 2
    memory_mb: int = 2048
    counted: bool = False

    def arguments(self) -> list[str]:
        """What QEMU is told of it."""
        accelerator = (
            ["-accel", "tcg,thread=single", "-icount", "shift=0"]
            if self.counted
            else ["-accel", "tcg"]
        )
        return ["-cpu", self.cpu, "-smp", str(self.cores), "-m", str(self.memory_mb), *accelerator]


@dataclass(frozen=True)
class Board:
    """A board that was started; `folder` holds its disk, its process id and its sockets."""

    folder: Path
    machine: Machine
    port: int

    @property
    def pid(self) -> int | None:
        """QEMU's process; None where it runs no more."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="utf-8"))
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if b"qemu-system-aarch64" in line else None

    def options(self, user: str = "edge") -> dict[str, Any]:
        """The options of an ssh device that is this board."""
        places = {
            "key": str(_debian() / "id_ed25519"),
            "known_hosts": str(self.folder / "known_hosts"),
        }
        return {"host": "127.0.0.1", "port": self.port, "user": user, **places}

    def entry(self, name: str) -> dict[str, Any]:
        """Its line of devices.yaml."""
        return {
            name: {
                "ssh": self.options(),
                "emulated": "instructions" if self.machine.counted else "wall",
            }
        }

    def ssh(
        self, *words: str, user: str = "root", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command there, by OpenSSH."""
        return subprocess.run(
            [*self.ssh_command(user), *words], capture_output=True, text=True, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ssh_command(self, user: str = "root") -> list[str]:
        """What reaches it."""
        known = f"UserKnownHostsFile={self.folder / 'known_hosts'}"
        options = [
            known,
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=5",
            "LogLevel=ERROR",
        ]
        given = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", "-i", str(_debian() / "id_ed25519"), "-p", str(self.port), *given,
                f"{user}@127.0.0.1"]  # fmt: skip

    def qmp(self, execute: str, **arguments: Any) -> Any:
        """QEMU's answer to a command: stop, cont, system_reset, set_link."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(str(self.folder / "qmp"))
            with line.makefile("rw", encoding="utf-8") as stream:
                stream.readline()
                for request in (
                    {"execute": "qmp_capabilities"},
                    {"execute": execute, "arguments": arguments},
                ):
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    answer = _answer(stream)
        if "error" in answer:
            raise BoardError(f"qmp {execute}: {answer['error']['desc']}")
        return answer["return"]

    def save(self, snapshot: str) -> Path:
        """Keep the board as it is now, memory and all; it goes on running."""
        said = self.qmp("human-monitor-command", **{"command-line": f"savevm {snapshot}"})
        if said:
            raise BoardError(f"savevm {snapshot}: {said.strip()}")
        target = _snapshot(snapshot)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.qmp("stop")  # what is copied must not change meanwhile
        try:
            _copy(self.folder / "disk.qcow2", target.with_suffix(".aside"))
        finally:
            self.qmp("cont")
        target.with_suffix(".json").write_text(json.dumps(asdict(self.machine)), encoding="utf-8")
        target.with_suffix(".aside").replace(target)
        return target

    def freeze(self) -> None:
        """Stop its process: nothing answers, the network neither."""
        os.kill(self._running(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._running(), signal.SIGCONT)

    def kill(self) -> None:
        """As if its power were cut. What it wrote and had not synchronized may be lost with it."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while self.pid is not None and time.monotonic() < end:
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut it down in good order; by force after ten seconds."""
        if self.pid is None:
            return
        self.thaw()
        with suppress(subprocess.TimeoutExpired):  # it goes down before it answers
            self.ssh("sync; busybox poweroff -f", seconds=5)
        end = time.monotonic() + 5
        while self.pid is not None and time.monotonic() < end:
            time.sleep(0.05)
        self.kill()

    def power_on(self) -> None:
        """Start again from what its disk holds."""
        self._start()

    def remove(self) -> None:
        """Kill it, and throw its disk away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _running(self) -> int:
        if (pid := self.pid) is None:
            raise BoardError(f"{self.folder.name} does not run; boot it")
        return pid

    def _start(self, *more: str) -> None:
        debian, folder = _debian(), self.folder
        began = time.monotonic()
        done = subprocess.run([
            "qemu-system-aarch64", "-M", "virt", *self.machine.arguments(),
            "-kernel", debian / "vmlinuz", "-initrd", debian / "initrd.gz",
            "-append", "console=ttyAMA0 net.ifnames=0 quiet panic=-1",
            "-drive", f"if=none,id=d0,file={folder / 'disk.qcow2'},format=qcow2,cache=unsafe",
            "-device", "virtio-blk-pci,drive=d0",
            "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci",
            "-display", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{folder / 'console'}",
            "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off", "-pidfile", folder / "pid", "-daemonize", *more,
        ], capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode:
            raise BoardError(
                f"qemu: {(done.stderr.strip().splitlines() or ['it did not start'])[-1]}"
            )
        while not self._answers():
            if self.pid is None or time.monotonic() - began > BOOT_S:
                self.kill()
                raise BoardError(
                    f"{folder.name}: no ssh within {BOOT_S:g} s; see {folder / 'console'}"
                )
            time.sleep(0.1)
        self.ssh("date", "-s", f"@{time.time():.3f}")  # a board that wakes thinks it is yesterday

    def _answers(self) -> bool:
        try:
            return self.ssh("true", seconds=6).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def prepare(say: Callable[[str], None] = lambda _: None) -> None:
    """Build the disk and kernel of all boards; the snapshots of earlier ones are worth nothing then."""
    build(_debian(), say)
    shutil.rmtree(home() / "snapshots", ignore_errors=True)


def boot(
    name: str,
    machine: Machine | None = None,
    *,
    snapshot: str | None = None,
    port: int | None = None,
) -> Board:
    """A new board of that name, from Debian as built (which is built where it is not) or from a snapshot; one of that
    name that still runs is killed. Needs no root but for the building."""
    check_tools(TOOLS)
    if not (_debian() / "disk.img").exists():
        prepare()
    if snapshot:
        machine = saved(snapshot)
        if machine is None:
            raise BoardError(f"there is no snapshot '{snapshot}'; boot, and save it")
    folder = home() / "boards" / name
    if old := running(name):
        old.kill()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    board = Board(folder, machine or Machine(), port or _free_port())
    disk = folder / "disk.qcow2"
    if snapshot:
        _copy(_snapshot(snapshot), disk)
    else:
        below = ["-b", _debian() / "disk.img", "-F", "raw"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, disk], check=True)
    kind, key = (_debian() / "host_key.pub").read_text(encoding="utf-8").split()[:2]
    (folder / "known_hosts").write_text(
        f"[127.0.0.1]:{board.port} {kind} {key}\n", encoding="utf-8"
    )
    facts = {"machine": asdict(board.machine), "port": board.port}
    (folder / "board.json").write_text(json.dumps(facts), encoding="utf-8")
    board._start(*(["-loadvm", snapshot] if snapshot else []))
    return board


def running(name: str) -> Board | None:
    """The board of that name, where it runs."""
    board = find(name)
    return board if board and board.pid else None


def find(name: str) -> Board | None:
    """The board of that name, whether it runs or is switched off."""
    folder = home() / "boards" / name
    try:
        facts = json.loads((folder / "board.json").read_text(encoding="utf-8"))
    except OSError:
        return None
    return Board(folder, Machine(**facts["machine"]), facts["port"])


def saved(snapshot: str) -> Machine | None:
    """The machine that a snapshot is of; None where there is none."""
    try:
        fields: Mapping[str, Any] = json.loads(
            _snapshot(snapshot).with_suffix(".json").read_text(encoding="utf-8")
        )
    except OSError:
        return None
    return Machine(**fields) if _snapshot(snapshot).exists() else None


def _debian() -> Path:
    return home() / "debian"


def _snapshot(name: str) -> Path:
    return home() / "snapshots" / f"{name}.qcow2"


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _answer(stream: Any) -> dict[str, Any]:
    """The next message that is no event."""
    while line := stream.readline():
        message: dict[str, Any] = json.loads(line)
        if "event" not in message:
            return message
    raise BoardError("QEMU hung up; does the board still run?")
