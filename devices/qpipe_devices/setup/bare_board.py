"""The device's side of check and setup.

It travels as text to a device that may have nothing but Python 3.8, reads its arguments from stdin,
and prints one line: what the device has, or what became of the wheels that were sent.
"""

from __future__ import annotations

import base64
import contextlib
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
from typing import IO, Any, Callable, Iterable, Sequence, TypedDict  # noqa: UP035  (Python 3.8)

with contextlib.suppress(ImportError):  # on a device: its program has begun with them
    from qpipe_devices.agent.mounts import is_noexec, mount_of
    from qpipe_devices.agent.private_folder import make_private

MAGIC = "qpipe-bare-1 "
IMPORT_PROGRAM = (
    "import importlib, sys; "
    "print(getattr(importlib.import_module(sys.argv[1]), '__version__', 'unknown'))"
)
CPUFREQ_FOLDER = "/sys/devices/system/cpu/cpufreq"
GOVERNOR_FILES = "policy*/scaling_governor"
HOLD_TEXTS = ("holder", "since", "until", "reason")  # the fields of a hold that are text
LOCK_WAIT_S = 1.0  # an agent whose host has just gone needs a moment to end
IMPORT_TIMEOUT_S = 120  # for a slow CPU and a card that was not read yet
RECORD_BYTES = 4096  # of what the holder of a lock writes of itself
BLOCK_BYTES = 1 << 20
# architectures as wheels name them
ARCHITECTURES = {"arm64": "aarch64", "AMD64": "x86_64", "armv8l": "armv7l"}
# the architecture of a 32-bit Python on a 64-bit kernel
ARCHITECTURES_OF_32_BITS = {"aarch64": "armv7l", "x86_64": "i686"}


class ImportResult(TypedDict, total=False):
    """The result of an import: the module's version, or the error."""

    version: str
    error: str


class Probe(TypedDict):
    """What a device has."""

    python: str  # version
    executable: str
    implementation: str  # cpython, pypy, ...
    abi: str
    system: str
    arch: str
    libc: str
    libc_version: str
    root: str  # the folder for qpipe's files
    mount: str  # where the file system of that folder is mounted
    noexec: bool  # whether nothing can be run from there
    blocked: str  # why nothing can be written there; "" where it can
    free: int  # bytes on its disk
    time: float  # seconds since the epoch, by the device's clock
    governors: list[str]
    runtime: str  # the digest of the runtime that setup has installed; "" for the system's own
    holder: str  # who uses or holds the device; "" where it is free
    imports: dict[str, ImportResult]


class Missing(TypedDict):
    """The wheels that must be sent, by their sha256."""

    missing: list[str]


class Installed(TypedDict):
    """The folder of the installed runtime, its bytes, and those of the runtimes before it."""

    path: str
    bytes: int
    other_bytes: int


class Deselected(TypedDict):
    """Whether a runtime was selected before."""

    was_selected: bool


def main(argv: Sequence[str]) -> None:
    """Run a verb by `folder verb`; its arguments are JSON on stdin.

    Print MAGIC and one line of JSON: the answer, or {"error": text}.
    """
    root = Path(os.path.abspath(argv[0]))  # noqa: PTH100  (links in it stay)
    verbs: dict[str, Callable[..., Any]] = {
        "probe": probe,
        "missing": missing,
        "install": install,
        "deselect": deselect,
    }
    verb = verbs[argv[1]]
    arguments = json.load(sys.stdin)
    try:
        if verb is not probe:
            _check_private(root)
        answer = verb(root, **arguments)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        answer = {"error": str(error)}
    sys.stdout.write("\n" + MAGIC + json.dumps(answer) + "\n")


def _check_private(root: Path) -> None:
    problem = make_private(str(root))
    if problem:
        raise ValueError(problem)


# ---- verbs


def probe(root: Path, modules: Sequence[str], lock: str = "", system: bool = False) -> Probe:
    """Return what the device has, and which of the modules the agent's processes can import.

    With `system`, the modules are imported as if setup had installed no runtime. No import is tried
    where the device is in use, by the folder's own lock or by `lock`, which agents with other
    folders take too: it would disturb the run that measures there.
    """
    libc_name, libc_version = find_libc()
    blocked = _find_write_error(root)
    runtime = None if system or blocked else selected_runtime(root)
    holder = find_holder(root, lock)
    imports = {}
    if not holder:
        imports = {module: _try_import(module, runtime) for module in modules}
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "implementation": sys.implementation.name,
        "abi": python_abi(),
        "system": platform.system(),
        "arch": architecture(),
        "libc": libc_name,
        "libc_version": libc_version,
        "root": str(root),
        "mount": mount_of(str(root)),
        "noexec": is_noexec(str(_existing_ancestor(root))),
        "blocked": blocked,
        "free": shutil.disk_usage(str(_existing_ancestor(root))).free,
        "time": time.time(),
        "governors": _read_governors(),
        "runtime": runtime.name if runtime else "",
        "holder": holder,
        "imports": imports,
    }


def missing(root: Path, digest: str, wheels: Sequence[str]) -> Missing:
    """Return which of the wheels must be sent, all by their sha256.

    None must be where the runtime of that digest is installed and undamaged.
    """
    if _is_undamaged(root / "python" / digest):
        return {"missing": []}
    incoming = root / "python" / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    return {"missing": [wheel for wheel in wheels if not _has_arrived(incoming / wheel)]}


def install(root: Path, digest: str, wheels: Sequence[str]) -> Installed:
    """Unpack the wheels that were sent as the runtime of that digest, and select it.

    A runtime that is installed and undamaged is only selected.
    """
    python_folder = root / "python"
    runtime = python_folder / digest
    incoming = python_folder / "incoming"
    if not _is_undamaged(runtime):
        _unpack_runtime([incoming / wheel for wheel in wheels], runtime)
    shutil.rmtree(str(incoming), ignore_errors=True)
    pointer = python_folder / "current"
    temporary = pointer.with_name(f"current.{os.getpid()}")
    temporary.write_text(digest, encoding="utf-8")
    temporary.replace(pointer)
    other_bytes = 0
    for path in python_folder.iterdir():
        if path.is_dir() and path != runtime:
            other_bytes += _folder_bytes(path)
    return {"path": str(runtime), "bytes": _folder_bytes(runtime), "other_bytes": other_bytes}


def deselect(root: Path) -> Deselected:
    """Select no runtime, so that the system's own is used; keep what was installed."""
    pointer = root / "python" / "current"
    was_selected = pointer.exists()
    if was_selected:
        pointer.unlink()
    return {"was_selected": was_selected}


# ---- the Python of the device


def selected_runtime(root: Path) -> Path | None:
    """Return the folder of the runtime that setup has installed; None for the system's own."""
    try:
        digest = (root / "python" / "current").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = root / "python" / digest
    if digest and folder.is_dir():
        return folder
    return None


def python_abi() -> str:
    """Return the ABI as wheels name it, such as cp311, or cp313t for a free-threaded Python."""
    major, minor = sys.version_info[:2]
    suffix = "t" if "t" in getattr(sys, "abiflags", "") else ""
    return f"cp{major}{minor}{suffix}"


def architecture() -> str:
    """Return the architecture as wheels name it, of this Python rather than of the kernel."""
    machine = platform.machine()
    machine = ARCHITECTURES.get(machine, machine)
    if struct.calcsize("P") == 4:
        return ARCHITECTURES_OF_32_BITS.get(machine, machine)
    return machine


def find_libc() -> tuple[str, str]:
    """Return ("glibc" or "musl", version); ("", "") for another C library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        name = ""
        version = ""
    if name == "glibc":
        return name, version
    for loader in sorted(Path("/lib").glob("ld-musl-*.so.1")):
        result = subprocess.run(
            [str(loader)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        match = re.search(rb"Version (\d+\.\d+)", result.stdout)
        if match:
            return "musl", match.group(1).decode()
    return "", ""


def _read_governors() -> list[str]:
    files = Path(CPUFREQ_FOLDER).glob(GOVERNOR_FILES)
    return sorted({path.read_text(encoding="ascii").strip() for path in files})


def _try_import(module: str, runtime: Path | None) -> ImportResult:
    """Import a module in a process of its own, because one that does not fit the CPU is killed."""
    folders = [str(runtime) if runtime else "", os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(folder for folder in folders if folder)
    try:
        result = subprocess.run(
            [sys.executable, "-c", IMPORT_PROGRAM, module],
            env={**os.environ, "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"its import takes longer than {IMPORT_TIMEOUT_S} s"}
    if result.returncode < 0:
        return {"error": f"its import was killed by signal {-result.returncode}"}
    if result.returncode > 0:
        return {"error": _last_line(result.stderr)}
    return {"version": _last_line(result.stdout)}


def _last_line(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip().rpartition("\n")[2].strip()


# ---- who uses the device: see PROTOCOL.md for what agents write into their locks


def find_holder(root: Path, lock: str) -> str:
    """Return who uses or holds the device, in words; "" where it is free."""
    locks = [root / "lock"]
    if lock:
        locks.insert(0, Path(lock))
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        user = _first_text(_describe_lock_holder(path) for path in locks)
        if not user:
            return _first_text(_describe_hold(path) for path in [root / "lease.json", *locks])
        if time.monotonic() > deadline:
            return user
        time.sleep(0.1)


def _first_text(texts: Iterable[str]) -> str:
    """Return the first text that is not empty, or ""."""
    for text in texts:
        if text:
            return text
    return ""


def _describe_lock_holder(lock: Path) -> str:
    """Return who has a lock, in words; "" where it is free."""
    try:
        with _open_regular_file(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        record = _read_record(lock)
        if "holder" in record and "since" in record:
            text = f"held by {record['holder']} since {record['since']}"
            return f"{text} ({record['purpose']})" if record.get("purpose") else text
        return "held by somebody"
    except OSError:  # the lock does not exist yet
        pass
    return ""


def _describe_hold(path: Path) -> str:
    """Return the hold that a file records, in words; "" where there is none, or it is over."""
    hold = _read_record(path).get("hold")
    if not isinstance(hold, dict):
        return ""
    if not all(isinstance(hold.get(key), str) for key in HOLD_TEXTS):
        return ""
    if not isinstance(hold.get("ends"), (int, float)) or time.time() >= hold["ends"]:
        return ""
    text = f"held by {hold['holder']} since {hold['since']} until {hold['until']}"
    if hold["reason"]:
        text += f" ({hold['reason']})"
    return text


def _read_record(path: Path) -> dict[str, Any]:
    """Return what an agent wrote into a file; {} for anything else."""
    try:
        with _open_regular_file(path) as file:
            record = json.loads(file.read(RECORD_BYTES))
    except (OSError, ValueError):
        return {}
    if isinstance(record, dict):
        return record
    return {}


def _open_regular_file(path: Path) -> IO[bytes]:
    """Open a file to read it.

    Raise OSError for a link, and for anything on which a read could block, such as a FIFO.
    """
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


# ---- files


def _find_write_error(root: Path) -> str:
    """Return why nothing can be written in a folder; "" where it can."""
    try:
        problem = make_private(str(root))
        if problem:
            return problem
        with tempfile.TemporaryFile(dir=str(root)) as file:
            file.write(b"qpipe")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _existing_ancestor(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _has_arrived(wheel: Path) -> bool:
    """Return whether a wheel is there and undamaged; delete a damaged one.

    Its name is its sha256.
    """
    if not wheel.is_file():
        return False
    if _sha256(wheel).hex() == wheel.name:
        return True
    wheel.unlink()
    return False


def _unpack_runtime(wheels: Iterable[Path], runtime: Path) -> None:
    """Unpack wheels into a temporary folder, which then becomes that of the runtime."""
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=str(runtime.parent)))
    try:
        for wheel in wheels:
            _unpack(wheel, temporary)
        os.sync()  # the power may fail at any moment: content reaches the card before the new name
        if runtime.exists():
            shutil.rmtree(str(runtime))
        temporary.replace(runtime)
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)


def _unpack(wheel: Path, folder: Path) -> None:
    """Unpack what an import needs, to where pip would; leave out scripts and headers."""
    if not _has_arrived(wheel):
        raise ValueError("a wheel did not arrive whole")
    with zipfile.ZipFile(str(wheel)) as archive:
        for member in archive.infolist():
            target = _installed_path(folder, member.filename)
            if target is None or member.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, BLOCK_BYTES)


def _installed_path(folder: Path, name: str) -> Path | None:
    """Return where a file of a wheel is installed; None for one that is left out."""
    parts = name.split("/")
    if parts[0].endswith(".data"):
        if parts[1:2] not in (["purelib"], ["platlib"]):
            return None
        parts = parts[2:]
    if name.startswith("/") or ".." in parts or not parts:
        raise ValueError("a wheel has a file that leaves its folder: " + name)
    return folder.joinpath(*parts)


def _is_undamaged(runtime: Path) -> bool:
    """Return whether every file of a runtime is as the RECORD of its wheel lists it."""
    records = list(runtime.glob("*.dist-info/RECORD"))
    return bool(records) and all(_matches_record(runtime, record) for record in records)


def _matches_record(folder: Path, record: Path) -> bool:
    with record.open(encoding="utf-8", newline="") as file:
        rows: list[list[str]] = list(csv.reader(file))
    for row in rows:
        if len(row) < 2 or not row[1]:
            continue
        path = _installed_path(folder, row[0])
        algorithm, _, recorded_digest = row[1].partition("=")
        if path is None or algorithm != "sha256":
            continue
        if not path.is_file() or _record_digest(path) != recorded_digest:
            return False
    return True


def _record_digest(path: Path) -> str:
    """Return a file's sha256 as a RECORD writes it: in base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(_sha256(path)).rstrip(b"=").decode()


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK_BYTES), b""):
            digest.update(block)
    return digest.digest()


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(sys.argv[1:])
