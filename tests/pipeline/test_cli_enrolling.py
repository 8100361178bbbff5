"""devices add and rekey: what a real server shows is shown, asked, pinned, and written into the inventory."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from shell import Shell

QPIPE = (sys.executable, "-c", "from qpipe.cli import main; main()")


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Shell(monkeypatch, capsys)


@pytest.fixture
def server(start_sshd):
    return start_sshd("ed25519", "ecdsa")


@pytest.fixture
def address(server) -> str:
    return f"{server.user}@127.0.0.1:{server.port} --key {server.key}"


def fingerprint(key: Path) -> str:
    said = subprocess.run(
        ["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True
    ).stdout.split()
    return f"{said[-1].strip('()')} {said[1]}"


def answering(command: list[str], answer: str) -> tuple[int, str]:
    """Exit status and output of a command on a terminal of its own, where somebody types this."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    while b"Are they the same?" not in said:
        said += os.read(ours, 4096)
    os.write(ours, answer.encode() + b"\n")
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # as Linux says that the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode()


def test_a_board_is_added_below_what_stands_there(qpipe, server, address) -> None:
    before = "# the shelf\nother: {ssh: {host: 10.0.0.7}}  # by the window"
    Path("devices.yaml").write_text(before, encoding="utf-8")
    out, _ = qpipe(
        f"devices add rpi4 {address} --folder {Path.cwd()}/board --python {sys.executable} --yes"
    )
    assert out.startswith("rpi4: added to devices.yaml; ")
    text = Path("devices.yaml").read_text(encoding="utf-8")
    assert text.startswith(before + "\nrpi4: {ssh: {host: 127.0.0.1, ")
    assert yaml.safe_load(text)["rpi4"] == {"ssh": {
        "host": "127.0.0.1", "user": server.user, "port": server.port, "key": str(server.key),
        "python": sys.executable, "folder": f"{Path.cwd()}/board", "known_hosts": "known_hosts",
    }}  # fmt: skip
    pinned = server.host_key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    assert Path("known_hosts").read_text(encoding="utf-8").split() == [
        f"[127.0.0.1]:{server.port}",
        *pinned,
    ]
    assert not list(Path().glob(".devices*")) + list(Path().glob(".known*"))
    qpipe("devices rekey rpi4")  # the entry serves, and what it shows is what is pinned


def test_it_asks_on_a_terminal_and_no_is_no(qpipe, server, address) -> None:
    command = [*QPIPE, "devices", "add", "rpi4", *address.split()]
    status, said = answering(command, "n")
    assert status == 2
    assert f"rpi4 shows         {fingerprint(server.host_key)}" in said
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in said
    assert said.rstrip().endswith("qpipe: rpi4: not trusted; nothing was changed")
    assert not Path("devices.yaml").exists()
    status, said = answering(command, "y")
    assert status == 0, said
    assert list(yaml.safe_load(Path("devices.yaml").read_text(encoding="utf-8"))) == ["rpi4"]


def test_nobody_to_ask_is_no_yes(qpipe, server, address) -> None:
    _, err = qpipe(f"devices add rpi4 {address}", 2)
    shown, how = fingerprint(server.host_key), "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`"
    fix = f"compare it with the output of {how} there, then give --yes"
    assert (
        err == f"qpipe: rpi4: shows {shown}, which cannot be confirmed without a terminal; {fix}\n"
    )
    assert not Path("devices.yaml").exists()
    assert not Path("known_hosts").exists()


def test_a_key_that_the_user_knows_already_needs_no_question(qpipe, server, address) -> None:
    known = Path("home/.ssh/known_hosts")
    known.parent.mkdir(parents=True)
    known.write_bytes(server.known_hosts.read_bytes())
    entry = qpipe.json(f"devices add rpi4 {address}")
    assert (entry["name"], entry["shown"]) == ("rpi4", fingerprint(server.host_key))


def test_who_is_not_let_in_is_not_written_down(qpipe, server, address) -> None:
    other = Path("other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    _, err = qpipe(f"devices add rpi4 {address.replace(str(server.key), str(other))} --yes", 1)
    assert "accepts none of" in err
    assert not Path("devices.yaml").exists()
    assert not Path("known_hosts").exists()
    Path("known_hosts").write_text("# of the shelf\n", encoding="utf-8")
    qpipe(f"devices add rpi4 {address.replace(str(server.key), str(other))} --yes", 1)
    assert Path("known_hosts").read_text(encoding="utf-8") == "# of the shelf\n"


def test_a_name_that_is_taken_is_refused(qpipe, address) -> None:
    Path("devices.yaml").write_text("rpi4: {ssh: {host: x}}\n", encoding="utf-8")
    _, err = qpipe(f"devices add rpi4 {address} --yes", 2)
    assert (
        err
        == "qpipe: devices.yaml: device 'rpi4' exists already; give another name, or change its entry\n"
    )
    assert "device 'local' exists already" in qpipe(f"devices add local {address} --yes", 2)[1]


@pytest.mark.parametrize(("before", "fits"), [
    ("", True), ("# nothing yet\n", True), ("  a: {ssh: {host: x}}\n", True), ("---\na:\n  ssh:\n    host: x", True),
    ("{a: {ssh: {host: x}}}\n", False), ("a: {ssh: {host: x}}\n...\n", False),
])  # fmt: skip
def test_an_inventory_of_any_form_is_kept_or_left_alone(qpipe, address, before, fits) -> None:
    Path("devices.yaml").write_text(before, encoding="utf-8")
    _, err = qpipe(f"devices add rpi4 {address} --yes", 0 if fits else 2)
    text = Path("devices.yaml").read_text(encoding="utf-8")
    assert text.startswith(before)
    if fits:
        assert list(yaml.safe_load(text)) == [*(yaml.safe_load(before) or []), "rpi4"]
    else:
        assert text == before
        assert (
            "nothing can be appended to this file; write into it: rpi4: {ssh: {host: 127.0.0.1, "
            in err
        )


def test_a_board_set_up_anew_is_known_by_its_new_key(qpipe, server, address) -> None:
    qpipe(f"devices add rpi4 {address} --yes")
    name = f"[127.0.0.1]:{server.port}"
    other = server.key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    kept = f"# the shelf\nelsewhere {' '.join(other)}\n"
    Path("known_hosts").write_text(f"{kept}{name} {' '.join(other)}\n", encoding="utf-8")
    _, err = qpipe("devices rekey rpi4", 2)
    assert f"shows {fingerprint(server.host_key)}, which cannot be confirmed" in err
    status, said = answering([*QPIPE, "devices", "rekey", "rpi4"], "y")
    assert status == 0, said
    assert f"rpi4 was known by  {fingerprint(server.key)}" in said
    assert f"rpi4 shows         {fingerprint(server.host_key)}" in said
    host_key = server.host_key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    assert Path("known_hosts").read_text(encoding="utf-8") == f"{kept}{name} {' '.join(host_key)}\n"
    out, _ = qpipe("devices rekey rpi4")
    assert out == f"rpi4: {fingerprint(server.host_key)} is trusted already, and the login works\n"


def test_a_kind_of_device_that_is_not_enrolled_says_so(qpipe) -> None:
    _, err = qpipe("devices rekey local", 2)
    assert (
        err
        == "qpipe: devices of kind 'local' have no key to trust; write the entry into devices.yaml\n"
    )
    assert "'null' have no key to trust" in qpipe("devices add x y --driver null", 2)[1]


def test_an_address_that_is_none(qpipe) -> None:
    _, err = qpipe("devices add rpi4 a@b@c:d", 1)
    assert err == "qpipe: rpi4: 'a@b@c:d' is not an address; write user@host or user@host:port\n"


def test_a_key_in_the_home_folder_is_found_from_there(qpipe, server) -> None:
    place = Path("home/.ssh/board")
    place.parent.mkdir(parents=True)
    place.write_bytes(server.key.read_bytes())
    place.chmod(0o600)
    qpipe(f"devices add rpi4 {server.user}@127.0.0.1:{server.port} --key home/.ssh/board --yes")
    text = Path("devices.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["rpi4"]["ssh"]["key"] == "~/.ssh/board"
    qpipe("devices rekey rpi4")
