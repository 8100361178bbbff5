"""Setup of a bare board: pip downloads wheels on the host, the board unpacks and proves them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qpipe.digests import digest_text
from qpipe.errors import BusyError, DeviceError
from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup import proof_network, readiness
from qpipe_devices.setup.bare_board import Probe
from qpipe_devices.setup.bare_calls import deselect, install, missing_wheels, probe
from qpipe_devices.setup.wheels import Wheel, check_requirement, describe_python, download_wheels

SEND_ATTEMPTS = 3  # a wheel that arrives damaged so often shows that something is broken
NEEDED_MODULES = ("numpy", "onnxruntime")
PYTHON_FACTS = ("python", "abi", "arch", "libc")

log = logging.getLogger(__name__)


def set_up(
    link: Link, *, wheel_folder: Path | None, runtime: str | None, system_runtime: bool
) -> Iterator[Finding]:
    """Install numpy and a runtime on a device that may have nothing but Python, and prove them.

    What it has already is only proved. `runtime` is a requirement; `wheel_folder` has the wheels
    instead of pip's index; with `system_runtime` nothing is installed.
    """
    requirement = check_requirement(link.name, runtime) if runtime else None
    board = probe(link, NEEDED_MODULES)
    facts = {key: value for key, value in board.items() if key in PYTHON_FACTS}
    yield Finding("python", "ok", describe_python(board), facts)
    if board["blocked"]:
        message = readiness.folder_finding(board).said
        raise DeviceError(f"{link.name}: {message}", failure="configuration")
    board = _check_not_busy(link, board)
    if system_runtime:
        yield _use_system_runtime(link)
    elif requirement or wheel_folder or _missing_modules(board):
        default = f"onnxruntime<={_onnxruntime_version_here()}"
        yield from _install(link, board, requirement or default, wheel_folder)
    else:
        yield _runtime_finding(board)
    yield proof_network.prove(link)


def _check_not_busy(link: Link, board: Probe) -> Probe:
    """Return the probe of a device that nobody uses; raise BusyError where a run uses it.

    What the run needs must not change meanwhile.
    """
    holder = board["holder"]
    if holder or "numpy" not in _missing_modules(board):
        _check_by_agent(link)
    if holder:
        board = probe(link, NEEDED_MODULES)
    if board["holder"]:  # its agent cannot report that: it does not start without numpy
        raise BusyError(f"{link.name}: busy: {board['holder']}")
    return board


def _check_by_agent(link: Link) -> None:
    """Raise BusyError where the agent reports that the device is in use."""
    try:
        link.capabilities()
    except BusyError:
        raise
    except DeviceError as error:
        log.info("%s: %s", link.name, error)  # setup may repair that
    finally:
        link.close()  # a running agent would keep the old packages


def _install(
    link: Link, board: Probe, requirement: str, wheel_folder: Path | None
) -> Iterator[Finding]:
    _check_installable(link, board, requirement)
    with tempfile.TemporaryDirectory() as folder:
        wheels = download_wheels(
            link.name, board, requirement, target=Path(folder), wheel_folder=wheel_folder
        )
        yield _download_finding(wheels, wheel_folder)
        wheels_by_digest = {wheel.sha256: wheel for wheel in wheels}
        runtime_digest = digest_text(" ".join(sorted(wheels_by_digest)))
        yield from _send_missing(link, board, wheels_by_digest, runtime_digest)
        installed = install(link, runtime_digest, list(wheels_by_digest))
    message = f"{_megabytes(installed['bytes'])} in {installed['path']}"
    yield Finding("installed", "ok", message, installed)
    if installed["other_bytes"]:
        message = (
            f"{_megabytes(installed['other_bytes'])} stay there; "
            f"remove them with: qpipe devices clean {link.name}"
        )
        yield Finding("earlier runtimes", "ok", message)


def _check_installable(link: Link, board: Probe, requirement: str) -> None:
    """Raise DeviceError where wheels cannot be installed on the device."""
    if board["noexec"]:
        message = readiness.folder_finding(board).said
        raise DeviceError(f"{link.name}: {message}", failure="configuration")
    implementation = board["implementation"]
    system = board["system"]
    if system == "Linux" and implementation == "cpython":
        return
    raise DeviceError(
        f"{link.name}: wheels are installed only for CPython on Linux, and this is "
        f"{implementation} on {system}; install it there: "
        f"{board['executable']} -m pip install {requirement}, then pass --use-system-runtime",
        failure="configuration",
    )


def _send_missing(
    link: Link, board: Probe, wheels_by_digest: Mapping[str, Wheel], runtime_digest: str
) -> Iterator[Finding]:
    """Send the wheels that the device lacks; send those again that arrive damaged."""
    digests = list(wheels_by_digest)
    total_size = 0
    total_seconds = 0.0
    missing = missing_wheels(link, runtime_digest, digests)
    for _ in range(SEND_ATTEMPTS):
        missing_now = [wheels_by_digest[digest] for digest in missing]
        if not missing_now:
            break
        _check_room(link, board, missing_now)
        for wheel in missing_now:
            seconds = _send(link, board, wheel)
            total_size += wheel.size
            total_seconds += seconds
            facts = {"file": wheel.path.name, "bytes": wheel.size, "seconds": seconds}
            message = f"{wheel.path.name}, {_describe_rate(wheel.size, seconds)}"
            yield Finding("sending", "ok", message, facts)
        missing = missing_wheels(link, runtime_digest, digests)
    if missing:
        name = wheels_by_digest[missing[0]].path.name
        raise DeviceError(
            f"{link.name}: {name} arrived damaged {SEND_ATTEMPTS} times; "
            "check the device's memory and card",
            failure="wrong answer",
        )
    message = "0 bytes: the device has all wheels"
    if total_size:
        message = _describe_rate(total_size, total_seconds)
    yield Finding("sent", "ok", message, {"bytes": total_size})


def _send(link: Link, board: Probe, wheel: Wheel) -> float:
    """Send a wheel; return the seconds that it took."""
    started_at = time.monotonic()
    target = f"{board['root']}/python/incoming/{wheel.sha256}"
    link.transport.put(wheel.path, target, proof_network.no_progress)
    return time.monotonic() - started_at


def _check_room(link: Link, board: Probe, wheels: Sequence[Wheel]) -> None:
    """Raise DeviceError where the wheels, packed and unpacked, exceed the free space."""
    needed = sum(wheel.size + wheel.unpacked_size for wheel in wheels)
    free = max(0.0, board["free"] - link.min_free_mb * 1e6)
    if needed > free:
        place = f"{board['root']}, mounted at {board['mount']}"
        raise DeviceError(
            f"{link.name}: no room for the runtime "
            f"({needed / 1e6:.0f} MB, {free / 1e6:.0f} MB free in {place}); "
            f"free space or run: qpipe devices clean {link.name}",
            failure="no room",
        )


def _download_finding(wheels: Sequence[Wheel], wheel_folder: Path | None) -> Finding:
    names = []
    for wheel in wheels:
        name, version = wheel.path.name.split("-")[:2]
        names.append(f"{name} {version}")
    size = sum(wheel.size for wheel in wheels)
    source = f"from {wheel_folder}" if wheel_folder else "by pip on this machine"
    message = f"{', '.join(names)} ({_megabytes(size)}), {source}"
    facts = {"wheels": [wheel.path.name for wheel in wheels], "bytes": size}
    return Finding("wheels", "ok", message, facts)


def _use_system_runtime(link: Link) -> Finding:
    board = probe(link, NEEDED_MODULES, system=True)
    for module in _missing_modules(board):
        error = board["imports"][module]["error"]
        raise DeviceError(
            f"{link.name}: {module} cannot be imported there: {error}; "
            f"install it there: {board['executable']} -m pip install {module}",
            failure="configuration",
        )
    deselect(link)
    return _runtime_finding(board)


def _runtime_finding(board: Probe) -> Finding:
    versions = {module: result["version"] for module, result in board["imports"].items()}
    names = ", ".join(f"{module} {version}" for module, version in versions.items())
    source = "of an earlier setup" if board["runtime"] else "of the system"
    message = f"{names}, {source}; nothing is sent"
    return Finding("runtime", "ok", message, {"versions": versions, "bytes": 0})


def _missing_modules(board: Probe) -> list[str]:
    """Return the modules that cannot be imported on the device."""
    return [module for module, result in board["imports"].items() if "version" not in result]


def _describe_rate(size: float, seconds: float) -> str:
    amount = _megabytes(size) if size >= 1e5 else f"{size / 1e3:.1f} kB"
    rate = size / 1e6 / max(seconds, 1e-3)
    return f"{amount} in {seconds:.1f} s ({rate:.1f} MB/s)"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _onnxruntime_version_here() -> str:
    """Return the host's version: with a newer one on the device, two things would differ."""
    import onnxruntime

    return str(onnxruntime.__version__)
