"""What can be wrong with an SSH connection, one line each, and what it carries; against a real server."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
from pathlib import Path

import paramiko
import pytest
from paramiko import ssh_exception
from processes import wait_until

import qpipe
from qpipe_devices import ssh
from qpipe_devices.ssh.error_mapping import mapped_errors
from qpipe_devices.ssh.login import resolve_login
from small_build import nothing


def refused(options: dict[str, object], failure: str) -> str:
    device = ssh("rpi4", **options)
    with pytest.raises(qpipe.DeviceError) as error:
        device.transport.start(["true"])
    device.close()
    assert "\n" not in str(error.value)
    assert error.value.failure == failure
    return str(error.value)


def lets_in(options: dict[str, object]) -> bool:
    device = ssh("rpi4", **options)
    status = device.transport.start(["true"]).wait(10)
    device.close()
    return status == 0


def new_key(path: Path, *more: str, passphrase: str = "") -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, *more, "-f", path], check=True
    )
    return path


@pytest.fixture
def options(sshd, tmp_path):
    return sshd.options(tmp_path / "board")


@pytest.fixture
def locked(sshd, tmp_path):
    """The server's key behind a passphrase."""
    key = tmp_path / "locked"
    key.write_bytes(sshd.key.read_bytes())
    key.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key],
        check=True,
        capture_output=True,
    )
    key.with_suffix(".pub").write_bytes(sshd.key.with_suffix(".pub").read_bytes())
    return key


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """An SSH agent that holds nothing."""
    place = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
    while not place.exists():
        assert process.poll() is None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
    yield place
    process.kill()
    process.wait()


# ---- keys


def test_a_key_that_is_not_let_in(sshd, options, tmp_path):
    key = new_key(tmp_path / "other")
    assert refused({**options, "key": key}, "configuration") == (
        f"rpi4: {sshd.user}@127.0.0.1:{sshd.port} accepts none of {key}; "
        f"add one with: ssh-copy-id -p {sshd.port} {sshd.user}@127.0.0.1"
    )


def test_a_key_with_a_passphrase_that_nobody_knows(options, locked):
    assert refused({**options, "key": locked}, "configuration") == (
        f"rpi4: the key {locked} has a passphrase; add it to an agent with: ssh-add, "
        "or give passphrase: ${env:NAME} in the inventory"
    )


def test_the_passphrase_opens_the_key_and_another_does_not(options, locked):
    assert lets_in({**options, "key": locked, "passphrase": "secret"})
    said = refused({**options, "key": locked, "passphrase": "sesame"}, "configuration")
    assert said.startswith(f"rpi4: the passphrase does not open the key {locked}; ")
    assert "sesame" not in said


def test_an_agent_opens_the_key(sshd, options, locked, agent):
    subprocess.run(["ssh-add", "-q", sshd.key], check=True)
    assert lets_in({**options, "key": locked})


def test_an_agent_that_hangs_is_not_asked_when_the_key_serves_and_holds_nobody_up_when_not(
    options, locked, tmp_path, monkeypatch
):
    place = tmp_path / "deaf"
    threads = threading.active_count()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(place))
        deaf.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        assert lets_in(options)
        said = refused({**options, "key": locked, "connect_timeout": 1.5}, "unreachable")
        assert wait_until(lambda: threading.active_count() == threads), "one still waits for it"
    assert "gave no answer within 1.5 s" in said


def test_a_certificate_beside_the_key_lets_it_in(start_sshd, tmp_path):
    authority, key = new_key(tmp_path / "authority"), new_key(tmp_path / "key")
    server = start_sshd("ed25519")
    trusted = server.key.with_suffix(".pub")
    trusted.write_text(
        f"cert-authority {authority.with_suffix('.pub').read_text(encoding='utf-8')}",
        encoding="utf-8",
    )
    options = {**server.options(tmp_path / "board"), "key": key}
    assert "accepts none of" in refused(options, "configuration")
    sign = [
        "ssh-keygen",
        "-q",
        "-s",
        authority,
        "-I",
        "me",
        "-n",
        server.user,
        key.with_suffix(".pub"),
    ]
    subprocess.run(sign, check=True)
    assert lets_in(options)


def test_a_key_file_that_is_not_there(options, tmp_path):
    missing = tmp_path / "missing"
    expected = f"rpi4: there is no key file {missing}; correct key"
    assert refused({**options, "key": missing}, "configuration") == expected


# ---- the way there


def test_nobody_listens(options):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refused({**options, "port": port}, "unreachable") == (
        f"rpi4: 127.0.0.1:{port} cannot be reached: connection refused; is it on, and is sshd running?"
    )


def test_a_host_name_that_means_nothing(options):
    assert refused({**options, "host": "no-such-board.invalid"}, "configuration") == (
        "rpi4: there is no host 'no-such-board.invalid'; give its address"
    )


@pytest.mark.parametrize("name", ["$(reboot)", "-oProxyCommand=x", "a b"])
def test_a_host_that_a_shell_would_read_is_none(name, options):
    assert f"'{name}' is not a valid host or user name" in refused(
        {**options, "host": name}, "configuration"
    )


def test_every_exception_of_paramiko_becomes_a_device_error():
    key = paramiko.ECDSAKey.generate()
    arguments = {
        "BadAuthenticationType": ("no", ["publickey"]), "BadHostKeyException": ("h", key, key),
        "ChannelException": (1, "no"),
        "NoValidConnectionsError": ({("h", 22): OSError()},), "PartialAuthentication": (["publickey"],),
        "ProxyCommandFailure": ("nc", 1), "CouldNotCanonicalize": (), "ConfigParseError": (),
    }  # fmt: skip
    classes = [
        each
        for each in vars(ssh_exception).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert len(classes) > 10
    for each in classes:
        error = each(*arguments.get(each.__name__, ("reason",)))
        with (
            pytest.raises(qpipe.DeviceError, match=r"^rpi4: .*; "),
            mapped_errors("rpi4", resolve_login("h")),
        ):
            raise error


# ---- what it carries


def test_a_file_comes_back_as_it_went_and_names_are_quoted(options, tmp_path):
    device = ssh("rpi4", **options)
    source, there, back = tmp_path / "source", tmp_path / "there; touch 'x y'", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_000))
    device.transport.put(source, str(there), nothing)
    device.transport.get(str(there), back)
    device.close()
    assert there.read_bytes() == back.read_bytes() == source.read_bytes()


def test_a_file_that_cannot_be_written_says_why(options, tmp_path):
    device = ssh("rpi4", **options)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    with pytest.raises(
        qpipe.DeviceError, match=r"^rpi4: source was not transferred: .*(No such file|nonexistent)"
    ):
        device.transport.put(source, str(tmp_path / "none" / "file"), nothing)
    with pytest.raises(
        qpipe.DeviceError, match=r"was not transferred: .*No such file or directory$"
    ):
        device.transport.get(str(tmp_path / "none"), tmp_path / "back")
    device.close()
    assert not list(tmp_path.glob("back*")), "nothing half-written stays"


@pytest.mark.parametrize(
    ("says", "reason", "failure"),
    [
        ("echo qpipe-file-follows 10; cat /dev/zero", "more arrived than the 10 bytes that it has", "wrong answer"),
        ("echo qpipe-file-follows 900000000000000; cat /dev/zero", "it has 900000000 MB, and .* has room for [0-9]+ MB", "no room"),
    ],
)  # fmt: skip
def test_a_board_that_lies_about_a_file_fills_no_disk(says, reason, failure, start_sshd, tmp_path):
    server = start_sshd("ed25519")
    public_key = server.key.with_suffix(".pub")
    key_line = public_key.read_text(encoding="utf-8")
    public_key.write_text(f'command="{says}" {key_line}', encoding="utf-8")
    device = ssh("rpi4", **server.options(tmp_path / "board"))
    with pytest.raises(qpipe.DeviceError, match=f"^rpi4: there was not transferred: {reason}") as e:
        device.transport.get("there", tmp_path / "back")
    device.close()
    assert e.value.failure == failure
    assert not list(tmp_path.glob("back*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so(options, tmp_path):
    device = ssh("rpi4", **options)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    with pytest.raises(
        qpipe.DeviceError,
        match=r"^rpi4: source was not transferred: .*No space left on device \(mounted at /\S*\)$",
    ) as e:
        device.transport.put(source, "/dev/full", nothing)
    assert e.value.failure == "no room"
    device.close()


def test_a_status_a_signal_and_a_lost_connection_are_told_apart(options):
    device = ssh("rpi4", **options)
    assert device.transport.start(["sh", "-c", "exit 3"]).wait(10) == 3
    assert device.transport.start(["sh", "-c", "kill -9 $$"]).wait(10) == -1
    process = device.transport.start(["sleep", "60"])
    device.transport.transport.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionResetError, match="the connection was lost"):
        process.wait(10)
    assert device.transport.start(["true"]).wait(10) == 0  # the next call connects again
    device.close()


def test_a_process_that_is_thrown_away_says_nothing(sshd, tmp_path):
    """The garbage collector may throw away the buffers of its files before the files."""
    device = ssh("board", **sshd.options(tmp_path / "board"))
    process = device.transport.start(["true"])
    for stream in (process.stdin, process.stdout, process.stderr):
        stream._wbuffer.close()
    process.wait(10)
    del process, stream  # what is raised in there is an error of this test
    gc.collect()
    device.close()
