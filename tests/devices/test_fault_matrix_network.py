"""The fault matrix, where the network fails: the board lies in a network namespace, behind a link of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fault_lab
import pytest
from fault_lab import Site

NAMESPACE = f"qp{os.getpid() % 100000}"
HOST, BOARD = "10.77.7.1", "10.77.7.2"


def _missing() -> str:
    """Why it cannot be done here; nothing where it can."""
    if fault_lab.SSHD is None:
        return "no sshd is installed: apt-get install openssh-server"
    if os.getuid() != 0:
        return "makes network namespaces: run it as root"
    if shutil.which("ip") is None:
        return "no ip is installed: apt-get install iproute2"
    made = subprocess.run(
        ["ip", "netns", "add", NAMESPACE], capture_output=True, text=True, check=False
    )
    subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True, check=False)
    return f"no network namespaces here: {made.stderr.strip()}" if made.returncode else ""


pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    if reason := _missing():
        pytest.skip(reason)
    _ip("netns", "add", NAMESPACE)
    _ip("-n", NAMESPACE, "link", "set", "lo", "up")
    yield NAMESPACE
    _ip("netns", "del", NAMESPACE)


@pytest.fixture
def cable(namespace: str) -> Iterator[str]:
    """A link that can be pulled: the name of its end there."""
    here, there = f"{namespace}h", f"{namespace}b"
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", namespace)
    _ip("addr", "add", HOST, "peer", BOARD, "dev", here)
    _ip("link", "set", here, "up")
    _ip("-n", namespace, "addr", "add", BOARD, "peer", HOST, "dev", there)
    _ip("-n", namespace, "link", "set", there, "up")
    yield there
    _ip("link", "del", here)


@pytest.fixture
def bad_line(namespace: str) -> Iterator[None]:
    """A link that loses 1 % of the packets each way and takes 10 ms each way."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun here")
    script = [
        sys.executable,
        Path(__file__).with_name("lossy_link.py"),
        namespace,
        HOST,
        BOARD,
        "10",
        "0.01",
        "1",
    ]
    link = subprocess.Popen(script, stdout=subprocess.PIPE)
    assert link.stdout
    assert link.stdout.readline() == b"up\n"
    yield
    link.send_signal(signal.SIGTERM)
    link.wait()
    link.stdout.close()


@pytest.fixture
def site(undisturbed: Site, namespace: str, tmp_path: Path) -> Iterator[Site]:
    prefix = ("ip", "netns", "exec", namespace)
    made = fault_lab.copy(undisturbed, tmp_path / "site", address=BOARD, prefix=prefix, port=2222)
    yield made
    made.end()


@dataclass(frozen=True)
class Cut:
    """A pulled cable: when, for how long, and what a run makes of it."""

    uploading: bool
    seconds: float | None  # None: for good
    status: int = 0
    says: str = ""
    within: float = 120


CUTS = {
    "mid-upload, and back": Cut(True, 6),
    "mid-measurement, and back": Cut(False, 6),
    "for 1.5 s": Cut(False, 1.5),
    "mid-measurement, for good": Cut(
        False, None, 1, r"^board is bad: .*(no answer|be reached).*; clear it with: qpipe devices clear",
        within=240,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_link_ends_as_it_should(name: str, cable: str, site: Site, undisturbed: Site) -> None:
    cut = CUTS[name]
    if cut.uploading:
        site.hold_uploads()
    run = site.run()
    if cut.uploading:
        site.await_upload()
    else:
        site.measuring(run)
    kept = site.journalled()
    _ip("-n", NAMESPACE, "link", "set", cable, "down")
    if cut.uploading:
        site.let_uploads_through()
    if cut.seconds is not None:
        time.sleep(cut.seconds)
        _ip("-n", NAMESPACE, "link", "set", cable, "up")
    ended = site.finish(run, cut.within)
    assert ended.status == cut.status, ended.said
    assert re.search(cut.says, ended.said, re.M), ended.said
    assert site.failures() <= {"died", "unreachable", "timeout"}
    site.check_nothing_left()
    site.check_numbers(undisturbed.numbers(), whole=cut.status == 0)
    if cut.status:  # once it is repaired, it goes on
        _ip("-n", NAMESPACE, "link", "set", cable, "up")
        site.qpipe("devices", "clear", "board")
        ended = site.finish(site.run())
        assert ended.status == 0, ended.said
        site.check_numbers(undisturbed.numbers())
    site.check_kept(kept)


def test_a_bad_line_changes_nothing(bad_line: None, site: Site, undisturbed: Site) -> None:
    ended = site.finish(site.run())
    assert ended.status == 0, ended.said
    assert site.failures() == set()
    site.check_nothing_left()
    site.check_numbers(undisturbed.numbers())


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
