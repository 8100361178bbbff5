"""How ready a board is, line by line, whatever it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qpipe.errors import DeviceError
from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup.bare_calls import NoPythonError, look
from qpipe_devices.setup.wheels import described

SKEWED_S = 60.0
LOW_MB = 200.0
RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "iree": "iree.runtime",
}  # what imports them


def check(link: Link) -> Iterator[Finding]:
    """What bare.py finds there, line by line; nothing but a device that cannot be reached hides the rest."""
    began = time.time()
    try:
        board = look(link, ["numpy", *RUNTIMES.values()])
    except NoPythonError as error:
        yield Finding("connection", "ok", f"in {time.time() - began:.1f} s")
        yield Finding("python", "bad", _without(link, error))
        return
    except DeviceError as error:
        yield Finding("connection", "bad", _without(link, error))
        return
    ended = time.time()
    yield Finding("connection", "ok", f"in {ended - began:.1f} s", {"seconds": ended - began})
    python = {
        key: board[key] for key in ("python", "abi", "arch", "libc", "libc_version", "executable")
    }
    yield Finding("python", "ok", f"{described(board)} ({board['executable']})", python)
    if board["holder"]:
        said = f"{board['holder']}; nothing was imported, which would disturb a run"
        yield Finding("imports", "warning", said, {"holder": board["holder"]})
    else:
        yield from _imports(link, board)
    yield folder(board)
    yield _space(link, board)
    yield _clock(board["time"] - ended, board["time"] - began)
    if board["governors"]:
        yield _governor(board["governors"])


def _imports(link: Link, board: Mapping[str, Any]) -> Iterator[Finding]:
    fix = f"run: qpipe devices setup {link.name}"
    numpy = board["imports"]["numpy"]
    if "version" in numpy:
        yield Finding("numpy", "ok", numpy["version"], numpy)
    else:
        yield Finding("numpy", "bad", f"cannot be imported: {numpy['error']}; {fix}", numpy)
    tried = {name: board["imports"][module] for name, module in RUNTIMES.items()}
    there = {name: each["version"] for name, each in tried.items() if "version" in each}
    if there:
        source = "brought by setup" if board["runtime"] else "the system's"
        said = ", ".join(f"{name} {version}" for name, version in there.items())
        yield Finding("runtime", "ok", f"{said} ({source})", {"runtimes": there})
    else:
        error = tried["onnxruntime"]["error"]
        yield Finding(
            "runtime", "bad", f"onnxruntime cannot be imported: {error}; {fix}", {"runtimes": {}}
        )


def folder(board: Mapping[str, Any]) -> Finding:
    """Whether qpipe can write where it would, by what bare.probe said."""
    if board["blocked"]:
        said = f"{board['root']} cannot be written: {board['blocked'].lower()}; give another folder in the inventory"
        return Finding("folder", "bad", said, {"path": board["root"]})
    return Finding("folder", "ok", board["root"], {"path": board["root"]})


def _space(link: Link, board: Mapping[str, Any]) -> Finding:
    free = board["free"] / 1e6
    state = "bad" if free < link.spare_mb else "warning" if free < link.spare_mb + LOW_MB else "ok"
    fix = (
        ""
        if state == "ok"
        else f", of which {link.spare_mb:g} stay free; run: qpipe devices clean {link.name}"
    )
    return Finding("space", state, f"{free:.0f} MB free{fix}", {"free_mb": free})  # type: ignore[arg-type]


def _clock(least: float, most: float) -> Finding:
    """The board's clock was read somewhere between the beginning of the look and its end."""
    skew = 0.0 if least <= 0 <= most else min(least, most, key=abs)
    if abs(skew) <= SKEWED_S:
        return Finding(
            "clock", "ok", "as the host's" if abs(skew) < 1 else f"{skew:+.0f} s", {"skew_s": skew}
        )
    said = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the host's; set it, as by NTP"
    return Finding("clock", "warning", said, {"skew_s": skew})


def _governor(governors: Sequence[str]) -> Finding:
    names = ", ".join(governors)
    if list(governors) == ["performance"]:
        return Finding("governor", "ok", names, {"governors": governors})
    said = f"{names}: clocks move, and times with them; set performance, there or as latency's option governor"
    return Finding("governor", "warning", said, {"governors": governors})


def _without(link: Link, error: DeviceError) -> str:
    return str(error).removeprefix(f"{link.name}: ")
