"""How ready a board is: one finding for each thing that it needs, whatever else it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

from qpipe.errors import DeviceError
from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup.bare_board import Probe
from qpipe_devices.setup.bare_calls import NoPythonError, probe
from qpipe_devices.setup.wheels import describe_python

TOLERATED_SKEW_S = 60.0
NEGLIGIBLE_SKEW_S = 1.0
LOW_MB = 200.0  # beyond what stays free
# runtimes by the modules that import them
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "iree": "iree.runtime"}
PYTHON_FACTS = ("python", "abi", "arch", "libc", "libc_version", "executable")


def check(link: Link) -> Iterator[Finding]:
    """Yield the findings about a device.

    Where it cannot be reached, or its Python does not run, there are no others.
    """
    started_at = time.time()
    try:
        board = probe(link, ["numpy", *RUNTIMES.values()])
    except NoPythonError as error:
        yield _connection_finding(time.time() - started_at)
        yield Finding("python", "bad", _message_without_name(link, error))
        return
    except DeviceError as error:
        yield Finding("connection", "bad", _message_without_name(link, error))
        return
    ended_at = time.time()
    yield _connection_finding(ended_at - started_at)
    yield _python_finding(board)
    if board["holder"]:
        yield _holder_finding(board["holder"])
    else:
        yield _numpy_finding(link, board)
        yield _runtimes_finding(link, board)
    yield folder_finding(board)
    yield _space_finding(link, board)
    yield _clock_finding(board["time"] - ended_at, board["time"] - started_at)
    if board["governors"]:
        yield _governor_finding(board["governors"])


def folder_finding(board: Probe) -> Finding:
    """Return whether qpipe can write in its folder on the device."""
    facts = {"path": board["root"]}
    if board["blocked"]:
        reason = board["blocked"].lower()
        fix = "give another folder in the inventory"
        place = f"{board['root']}, mounted at {board['mount']},"
        return Finding("folder", "bad", f"{place} cannot be used: {reason}; {fix}", facts)
    if board["noexec"]:
        message = (
            f"{board['root']}: {board['mount']} is mounted noexec, so no runtime can be installed "
            "there; give a folder on another mount in the inventory"
        )
        return Finding("folder", "warning", message, facts)
    return Finding("folder", "ok", board["root"], facts)


def _connection_finding(seconds: float) -> Finding:
    return Finding("connection", "ok", f"in {seconds:.1f} s", {"seconds": seconds})


def _python_finding(board: Probe) -> Finding:
    facts = {key: value for key, value in board.items() if key in PYTHON_FACTS}
    return Finding("python", "ok", f"{describe_python(board)} ({board['executable']})", facts)


def _holder_finding(holder: str) -> Finding:
    message = f"{holder}; nothing was imported, which would disturb a run"
    return Finding("imports", "warning", message, {"holder": holder})


def _numpy_finding(link: Link, board: Probe) -> Finding:
    numpy = board["imports"]["numpy"]
    if "version" in numpy:
        return Finding("numpy", "ok", numpy["version"], numpy)
    message = f"cannot be imported: {numpy['error']}; {_setup_fix(link)}"
    return Finding("numpy", "bad", message, numpy)


def _runtimes_finding(link: Link, board: Probe) -> Finding:
    """Return which runtimes can be imported; one suffices."""
    versions = {}
    for name, module in RUNTIMES.items():
        result = board["imports"][module]
        if "version" in result:
            versions[name] = result["version"]
    facts = {"runtimes": versions}
    if versions:
        names = ", ".join(f"{name} {version}" for name, version in versions.items())
        source = "installed by setup" if board["runtime"] else "the system's"
        return Finding("runtime", "ok", f"{names} ({source})", facts)
    error = board["imports"]["onnxruntime"]["error"]
    message = f"onnxruntime cannot be imported: {error}; {_setup_fix(link)}"
    return Finding("runtime", "bad", message, facts)


def _space_finding(link: Link, board: Probe) -> Finding:
    free_mb = board["free"] / 1e6
    message = f"{free_mb:.0f} MB free"
    state: Literal["ok", "warning", "bad"] = "ok"
    if free_mb < link.min_free_mb:
        state = "bad"
    elif free_mb < link.min_free_mb + LOW_MB:
        state = "warning"
    if state != "ok":
        message += f" at {board['mount']}, of which {link.min_free_mb:g} stay free; "
        message += f"run: qpipe devices clean {link.name}"
    return Finding("space", state, message, {"free_mb": free_mb})


def _clock_finding(least_skew_s: float, most_skew_s: float) -> Finding:
    """Return how far the device's clock is ahead of the host's.

    It was read at some moment of the probe, so the skew is known to lie within two limits, of which
    the one closer to 0 is reported.
    """
    skew_s = 0.0
    if least_skew_s > 0 or most_skew_s < 0:
        skew_s = min(least_skew_s, most_skew_s, key=abs)
    facts = {"skew_s": skew_s}
    if abs(skew_s) < NEGLIGIBLE_SKEW_S:
        return Finding("clock", "ok", "as the host's", facts)
    if abs(skew_s) <= TOLERATED_SKEW_S:
        return Finding("clock", "ok", f"{skew_s:+.0f} s", facts)
    direction = "ahead of" if skew_s > 0 else "behind"
    message = f"{abs(skew_s):.0f} s {direction} the host's; set it, as by NTP"
    return Finding("clock", "warning", message, facts)


def _governor_finding(governors: Sequence[str]) -> Finding:
    names = ", ".join(governors)
    facts = {"governors": governors}
    if list(governors) == ["performance"]:
        return Finding("governor", "ok", names, facts)
    message = (
        f"{names}: the clock rate varies, and latencies with it; "
        "set performance on the device, or by the option governor of latency"
    )
    return Finding("governor", "warning", message, facts)


def _setup_fix(link: Link) -> str:
    return f"run: qpipe devices setup {link.name}"


def _message_without_name(link: Link, error: DeviceError) -> str:
    return str(error).removeprefix(f"{link.name}: ")
