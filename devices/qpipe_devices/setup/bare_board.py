"""The board's half of check and setup. It travels as text to a board that has nothing but Python (3.8), and says one
line: what is there, or what became of the wheels that were sent."""

from __future__ import annotations

import base64
import csv
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, Any, Callable, Sequence  # noqa: UP035  (Python 3.8 on the board)

MAGIC = "qpipe-bare-1 "
IMPORT = "import importlib, sys; print(getattr(importlib.import_module(sys.argv[1]), '__version__', 'unknown'))"
POLICIES = "/sys/devices/system/cpu/cpufreq"
GOVERNOR = "policy*/scaling_governor"
HOLD = ("holder", "since", "until", "reason")  # in words
LOCK_WAIT_S = 1.0  # an agent whose host has just gone needs a moment to fall
IMPORT_S = 120  # a cold card under a slow CPU
WORDS = {"aarch64": "armv7l", "x86_64": "i686"}  # what a Python of 32 bits is on a kernel of 64


def main(argv: Sequence[str]) -> None:
    """`folder verb arguments-as-JSON`; the answer, or {"error": text}, is one line of JSON after MAGIC."""

    root = Path(os.path.abspath(argv[0]))
    asked = json.loads(argv[2])
    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "probe": probe,
        "missing": missing,
        "install": install,
        "forget": forget,
    }
    try:
        answer = verbs[argv[1]](root, **asked)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        answer = {"error": str(error)}
    sys.stdout.write("\n" + MAGIC + json.dumps(answer) + "\n")


def probe(
    root: Path, modules: Sequence[str], lock: str = "", system: bool = False
) -> dict[str, Any]:
    """What this Python is, where it would write, and which of the modules the agent's processes can import; of the
    `system` alone as if setup had brought nothing. None is tried where the device is somebody's, by the folder's lock
    or by `lock`, which others take too: that would cost the run at it what it measures."""
    kind, version = libc()
    blocked = _blocked(root)
    current = None if system else selected(root)
    held = holder(root, lock)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "implementation": sys.implementation.name,
        "abi": abi(),
        "system": platform.system(),
        "arch": architecture(),
        "libc": kind,
        "libc_version": version,
        "root": str(root),
        "blocked": blocked,
        "free": shutil.disk_usage(str(_existing(root))).free,
        "time": time.time(),
        "governors": sorted(
            {path.read_text(encoding="ascii").strip() for path in Path(POLICIES).glob(GOVERNOR)}
        ),
        "runtime": current.name if current else "",
        "holder": held,
        "imports": {} if held else {module: _tried(module, current) for module in modules},
    }


def missing(root: Path, digest: str, wheels: Sequence[str]) -> dict[str, Any]:
    """Those of the wheels (sha256) that must be sent: none where the runtime of that digest is there, undamaged."""
    if _is_whole(root / "python" / digest):
        return {"missing": []}
    incoming = root / "python" / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    return {"missing": [wheel for wheel in wheels if not _arrived(incoming / wheel)]}


def install(root: Path, digest: str, wheels: Sequence[str]) -> dict[str, Any]:
    """Unpack the wheels that arrived into the runtime of that digest, unless it is there, and select it."""
    final = root / "python" / digest
    incoming = root / "python" / "incoming"
    if not _is_whole(final):
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=str(root / "python")))
        try:
            for wheel in wheels:
                _unpack(incoming / wheel, aside)
            os.sync()  # a board may lose its power at any moment: the bytes go to the card before the name does
            if final.exists():
                shutil.rmtree(str(final))
            aside.chmod(0o755)
            aside.replace(final)
        finally:
            shutil.rmtree(str(aside), ignore_errors=True)
    shutil.rmtree(str(incoming), ignore_errors=True)
    pointer = root / "python" / "current"
    fresh = pointer.with_name(f"current.{os.getpid()}")
    fresh.write_text(digest, encoding="utf-8")
    fresh.replace(pointer)
    others = [each for each in (root / "python").iterdir() if each.is_dir() and each != final]
    return {"path": str(final), "bytes": _size(final), "other_bytes": sum(map(_size, others))}


def forget(root: Path) -> dict[str, Any]:
    """Select no runtime: the system's own is used. What was installed stays."""
    pointer = root / "python" / "current"
    there = pointer.exists()
    if there:
        pointer.unlink()
    return {"forgot": there}


def selected(root: Path) -> Path | None:
    """The folder of the runtime in use; none where the system's is."""
    try:
        name = (root / "python" / "current").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = root / "python" / name
    return folder if name and folder.is_dir() else None


def abi() -> str:
    """As wheels name it, such as cp311, or cp313t of a free-threaded Python."""
    major, minor = sys.version_info[:2]
    return f"cp{major}{minor}{'t' if 't' in getattr(sys, 'abiflags', '') else ''}"


def holder(root: Path, lock: str) -> str:
    """Whose the device is, by the locks of the agent and what it wrote into them (PROTOCOL.md); "" where it is free."""
    places = [Path(lock), root / "lock"] if lock else [root / "lock"]
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        taken = next(filter(None, map(_taken, places)), "")
        if not taken or time.monotonic() > end:
            break
        time.sleep(0.1)
    return taken or next(filter(None, map(_held, (root / "lease.json", *places))), "")


def _taken(lock: Path) -> str:
    """Who has a lock; "" where nobody has."""
    try:
        with _opened(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = _record(lock)
        is_told = said.keys() >= {"holder", "since"}
        return f"held by {said['holder']} since {said['since']}" if is_told else "held by somebody"
    except OSError:  # there is none yet
        pass
    return ""


def _held(path: Path) -> str:
    """The hold that stands in a file; "" where it is over, or none at all."""
    hold = _record(path).get("hold")
    if not isinstance(hold, dict) or not all(isinstance(hold.get(key), str) for key in HOLD):
        return ""
    if not isinstance(hold.get("ends"), (int, float)) or time.time() >= hold["ends"]:
        return ""
    reason = f" ({hold['reason']})" if hold["reason"] else ""
    return f"held by {hold['holder']} since {hold['since']} until {hold['until']}{reason}"


def _record(path: Path) -> dict[str, Any]:
    """What an agent wrote there; nothing where it is something else."""
    try:
        with _opened(path) as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _opened(path: Path) -> IO[bytes]:
    """A file to read; no link, and nothing that lets who opens it wait."""
    file = os.fdopen(os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("no file")
    return file


def architecture() -> str:
    """As wheels name it: that of this Python, which may have 32 bits on a kernel of 64."""
    machine = {"arm64": "aarch64", "AMD64": "x86_64", "armv8l": "armv7l"}.get(
        platform.machine(), platform.machine()
    )
    return WORDS.get(machine, machine) if struct.calcsize("P") == 4 else machine


def libc() -> Sequence[str]:
    """("glibc" or "musl", version); ("", "") for something else."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        name = ""
        version = ""
    if name == "glibc":
        return name, version
    for loader in sorted(Path("/lib").glob("ld-musl-*.so.1")):
        said = subprocess.run(
            [str(loader)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        ).stdout
        found = re.search(rb"Version (\d+\.\d+)", said)
        if found:
            return "musl", found.group(1).decode()
    return "", ""


def _tried(module: str, folder: Path | None) -> dict[str, str]:
    """{"version"} or {"error"} of an import in a process of its own: what does not fit the CPU kills it."""
    paths = filter(None, [str(folder) if folder else "", os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", IMPORT, module],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"its import takes longer than {IMPORT_S} s"}
    if ended.returncode < 0:
        return {"error": f"its import was killed by signal {-ended.returncode}"}
    text = (ended.stdout if ended.returncode == 0 else ended.stderr).decode("utf-8", "replace")
    last = ([""] + [line for line in text.splitlines() if line.strip()])[-1].strip()
    return {"version": last} if ended.returncode == 0 else {"error": last}


def _blocked(root: Path) -> str:
    """Why nothing can be written there; "" where it can."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(root)) as file:
            file.write(b"qpipe")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _arrived(wheel: Path) -> bool:
    """It is there and what its name says; else it is deleted."""
    if not wheel.is_file():
        return False
    if _sha256(wheel).hexdigest() == wheel.name:
        return True
    wheel.unlink()
    return False


def _unpack(wheel: Path, folder: Path) -> None:
    """What pip does of it that an import needs: scripts and headers stay out."""
    if not _arrived(wheel):
        raise ValueError("a wheel did not arrive whole")
    with zipfile.ZipFile(str(wheel)) as archive:
        for member in archive.infolist():
            place = _place(folder, member.filename)
            if place is None or member.is_dir():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _place(folder: Path, name: str) -> Path | None:
    """Where a file of a wheel goes; None for one that has no place below the folder."""
    parts = name.split("/")
    if parts[0].endswith(".data"):
        if parts[1:2] not in (["purelib"], ["platlib"]):
            return None
        parts = parts[2:]
    if name.startswith("/") or ".." in parts or not parts:
        raise ValueError("a wheel has a file that leaves its folder: " + name)
    return folder.joinpath(*parts)


def _is_whole(folder: Path) -> bool:
    """Every file is there as its wheel recorded it."""
    records = list(folder.glob("*.dist-info/RECORD"))
    return bool(records) and all(_is_recorded(folder, record) for record in records)


def _is_recorded(folder: Path, record: Path) -> bool:
    with record.open(encoding="utf-8", newline="") as file:
        rows: list[list[str]] = list(csv.reader(file))
    for name, digest in (row[:2] for row in rows if len(row) > 1 and row[1]):
        place = _place(folder, name)
        if place is None:
            continue
        kind, _, wanted = digest.partition("=")
        if kind == "sha256" and not (
            place.is_file() and _encoded(_sha256(place).digest()) == wanted
        ):
            return False
    return True


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _sha256(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(sys.argv[1:])
