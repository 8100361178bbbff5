"""Making a bare board ready: bare.py looks and unpacks there, pip fetches wheels here, and a tiny network proves it."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qpipe.errors import BusyError, DeviceError
from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup import proof_network, readiness
from qpipe_devices.setup.bare_calls import LOOKING_S, ask, look
from qpipe_devices.setup.wheels import Wheel, check_requirement, described, fetch

ATTEMPTS = 3  # a wheel that arrives damaged so often says that something is broken
INSTALLING_S = 900.0  # 150 MB unpacked onto a slow card
NEEDED = ("numpy", "onnxruntime")

log = logging.getLogger(__name__)


def setup(
    link: Link, *, wheels: Path | None, runtime: str | None, system_runtime: bool
) -> Iterator[Finding]:
    """Bring numpy and a runtime to a board that may have nothing but Python, unless they are there, and prove them."""
    requirement = check_requirement(link.name, runtime) if runtime else None
    board = look(link, NEEDED)
    yield Finding(
        "python",
        "ok",
        described(board),
        {key: board[key] for key in ("python", "abi", "arch", "libc")},
    )
    if board["blocked"]:
        raise DeviceError(f"{link.name}: {readiness.folder(board).said}", failure="configuration")
    if board["holder"] or "version" in board["imports"]["numpy"]:
        _refuse_busy(link)
    if board["holder"]:
        board = look(link, NEEDED)
    if board["holder"]:  # an agent could not say so: it has no numpy to start with
        raise BusyError(f"{link.name}: busy: {board['holder']}")
    if system_runtime:
        yield _system(link)
    elif requirement or wheels or not _imported(board):
        yield from _install(link, board, requirement or f"onnxruntime<={_host_version()}", wheels)
    else:
        yield _there(board)
    yield proof_network.prove(link)


def _refuse_busy(link: Link) -> None:
    """BusyError where a run is at the device: what it runs on is not changed under it."""
    try:
        link.capabilities()
    except BusyError:
        raise
    except DeviceError as error:
        log.info("%s: %s", link.name, error)  # setup may mend that
    finally:
        link.close()  # an agent that is running would go on with what it has


def _install(
    link: Link, board: Mapping[str, Any], requirement: str, folder: Path | None
) -> Iterator[Finding]:
    if board["system"] != "Linux" or board["implementation"] != "cpython":
        fix = f"install it there: {board['executable']} -m pip install {requirement}, then say --use-system-runtime"
        raise DeviceError(
            f"{link.name}: wheels are brought to CPython on Linux alone, this is {board['implementation']} on "
            f"{board['system']}; {fix}",
            failure="configuration",
        )
    with tempfile.TemporaryDirectory() as fetched:
        wheels = fetch(link.name, board, requirement, Path(fetched), folder)
        yield _fetched(wheels, folder)
        digests = [wheel.sha256 for wheel in wheels]
        digest = hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()
        yield from _send(link, board, wheels, digest)
        done = ask(link, "install", INSTALLING_S, digest=digest, wheels=digests)
    yield Finding("installed", "ok", f"{done['bytes'] / 1e6:.1f} MB in {done['path']}", done)
    if done["other_bytes"]:
        said = f"{done['other_bytes'] / 1e6:.1f} MB stay there"
        fix = f"remove them with: qpipe devices clean {link.name}"
        yield Finding("earlier runtimes", "ok", f"{said}; {fix}")


def _send(
    link: Link, board: Mapping[str, Any], wheels: Sequence[Wheel], digest: str
) -> Iterator[Finding]:
    by_digest = {wheel.sha256: wheel for wheel in wheels}
    total = 0
    seconds = 0.0
    for attempt in range(ATTEMPTS + 1):
        missing = ask(link, "missing", INSTALLING_S, digest=digest, wheels=list(by_digest))[
            "missing"
        ]
        if not missing:
            break
        if attempt == ATTEMPTS:
            fix = "check the device's memory and card"
            name = by_digest[missing[0]].path.name
            raise DeviceError(
                f"{link.name}: {name} arrived damaged {ATTEMPTS} times; {fix}",
                failure="wrong answer",
            )
        _check_room(link, board, [by_digest[each] for each in missing])
        for wheel in (by_digest[each] for each in missing):
            took = _put(link, board, wheel)
            total = total + wheel.size
            seconds = seconds + took
            facts = {"file": wheel.path.name, "bytes": wheel.size, "seconds": took}
            yield Finding("sending", "ok", f"{wheel.path.name}, {_rate(wheel.size, took)}", facts)
    yield Finding(
        "sent", "ok", _rate(total, seconds) if total else "0 bytes: it has them", {"bytes": total}
    )


def _put(link: Link, board: Mapping[str, Any], wheel: Wheel) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    link.transport.put(
        wheel.path, f"{board['root']}/python/incoming/{wheel.sha256}", proof_network.quietly
    )
    return time.monotonic() - began


def _check_room(link: Link, board: Mapping[str, Any], wheels: Sequence[Wheel]) -> None:
    need = sum(wheel.size + wheel.unpacked for wheel in wheels)
    free = board["free"] - link.spare_mb * 1e6
    if need > free:
        said = f"no room for the runtime ({need / 1e6:.0f} MB, {max(0, free) / 1e6:.0f} MB free in {board['root']})"
        fix = f"free space or run: qpipe devices clean {link.name}"
        raise DeviceError(f"{link.name}: {said}; {fix}", failure="no room")


def _fetched(wheels: Sequence[Wheel], folder: Path | None) -> Finding:
    names = ", ".join(" ".join(wheel.path.name.split("-")[:2]) for wheel in wheels)
    size = sum(wheel.size for wheel in wheels)
    source = f"out of {folder}" if folder else "by pip on this machine"
    files = [wheel.path.name for wheel in wheels]
    return Finding(
        "wheels", "ok", f"{names} ({size / 1e6:.1f} MB), {source}", {"wheels": files, "bytes": size}
    )


def _system(link: Link) -> Finding:
    board = look(link, NEEDED, system=True)
    if not _imported(board):
        module, reason = next(
            (m, tried["error"]) for m, tried in board["imports"].items() if "error" in tried
        )
        fix = f"install it there: {board['executable']} -m pip install {module}"
        raise DeviceError(
            f"{link.name}: {module} cannot be imported there: {reason}; {fix}",
            failure="configuration",
        )
    ask(link, "forget", LOOKING_S)
    return _there(board)


def _there(board: Mapping[str, Any]) -> Finding:
    versions = {module: tried["version"] for module, tried in board["imports"].items()}
    source = "of an earlier setup" if board["runtime"] else "of the system"
    said = f"{', '.join(' '.join(item) for item in versions.items())}, {source}; nothing is sent"
    return Finding("runtime", "ok", said, {"versions": versions, "bytes": 0})


def _imported(board: Mapping[str, Any]) -> bool:
    return all("version" in tried for tried in board["imports"].values())


def _rate(size: float, seconds: float) -> str:
    amount = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
    return f"{amount} in {seconds:.1f} s ({size / 1e6 / max(seconds, 1e-3):.1f} MB/s)"


def _host_version() -> str:
    """A newer runtime there than here would make two things differ at once."""
    import onnxruntime

    return str(onnxruntime.__version__)
