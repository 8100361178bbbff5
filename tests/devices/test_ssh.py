"""What can be wrong with an SSH connection, one line each; against a real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import paramiko
import pytest
from paramiko import ssh_exception

import qpipe
from qpipe_devices import ssh
from qpipe_devices.ssh_transport import SshTransport
from small_build import nothing


def message(options: dict[str, object]) -> str:
    device = ssh("rpi4", **options)
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    device.close()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def options(sshd, tmp_path):
    return sshd.options(tmp_path / "board")


def test_an_unknown_host_key_comes_with_the_command_that_adds_it(sshd, options, tmp_path):
    known = tmp_path / "known_hosts"
    expected = f"rpi4: host key of 127.0.0.1 is not known; add it with: ssh-keyscan -p {sshd.port} 127.0.0.1 >> {known}"
    assert message({**options, "known_hosts": known}) == expected
    assert not known.exists()
    scan = subprocess.run(
        ["ssh-keyscan", "-p", str(sshd.port), "127.0.0.1"], check=True, capture_output=True, text=True
    )
    known.write_text(scan.stdout, encoding="utf-8")
    device = ssh("rpi4", **{**options, "known_hosts": known})
    assert device.capabilities().cores > 0
    device.close()


def test_another_host_key_than_the_known_one_is_refused(sshd, options, tmp_path):
    kind, key = sshd.key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n", encoding="utf-8")
    assert message({**options, "known_hosts": known}) == (
        f"rpi4: host key of 127.0.0.1 is not the one in {known}; if the board was set up anew: "
        f"ssh-keygen -f {known} -R '[127.0.0.1]:{sshd.port}'"
    )


def test_a_revoked_host_key_is_as_good_as_unknown(sshd, options, tmp_path):
    known = tmp_path / "known_hosts"
    line = sshd.known_hosts.read_text(encoding="utf-8")
    known.write_text(f"{line}@revoked * {line.split(' ', 1)[1]}", encoding="utf-8")
    assert "host key of 127.0.0.1 is not known" in message({**options, "known_hosts": known})


def test_lines_that_paramiko_does_not_know_cost_nobody_else_their_keys(sshd, options, tmp_path):
    known = tmp_path / "known_hosts"
    line = sshd.known_hosts.read_text(encoding="utf-8")
    kind, key = sshd.key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    strange = f"# home\n@cert-authority *.lab {kind} {key}\n@revoked * {kind} {key}\nlab ssh-ed25519 !!!\n\nhalf\n"
    known.write_text(strange + line, encoding="utf-8")
    device = ssh("rpi4", **{**options, "known_hosts": known})
    assert device.capabilities().cores > 0
    device.close()


def test_a_key_that_is_not_let_in(sshd, options, tmp_path):
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    assert message({**options, "key": key}) == (
        f"rpi4: {sshd.user}@127.0.0.1:{sshd.port} accepts none of {key}; "
        f"add one with: ssh-copy-id -p {sshd.port} {sshd.user}@127.0.0.1"
    )


def test_a_key_with_a_passphrase(options, tmp_path):
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True)
    assert message({**options, "key": key}) == "rpi4: the key has a passphrase; add it to an agent with: ssh-add"


def test_a_key_file_that_is_not_there(options, tmp_path):
    missing = tmp_path / "missing"
    assert message({**options, "key": missing}) == f"rpi4: there is no key file {missing}; correct key"


def test_nobody_listens(options):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert message({**options, "port": port}) == (
        f"rpi4: 127.0.0.1:{port} cannot be reached: connection refused; is it on, and is sshd running?"
    )


def test_who_listens_does_not_speak_ssh(options):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        said = message({**options, "port": port, "connect_timeout": 0.5})
    assert said.startswith("rpi4: ")
    assert str(port) in said


def test_a_host_name_that_means_nothing(options):
    assert message({**options, "host": "no-such-board.invalid"}) == (
        "rpi4: there is no host 'no-such-board.invalid'; give its address"
    )


def test_every_exception_of_paramiko_becomes_a_device_error(tmp_path):
    key = paramiko.ECDSAKey.generate()
    arguments = {
        "BadAuthenticationType": ("no", ["publickey"]), "BadHostKeyException": ("h", key, key),
        "ChannelException": (1, "no"),
        "NoValidConnectionsError": ({("h", 22): OSError()},), "PartialAuthentication": (["publickey"],),
        "ProxyCommandFailure": ("nc", 1), "CouldNotCanonicalize": (), "ConfigParseError": (),
    }  # fmt: skip
    classes = [each for each in vars(ssh_exception).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 10
    transport = SshTransport("rpi4", "h", "pi", 22, None, tmp_path / "known", 1)
    for each in classes:
        error = each(*arguments.get(each.__name__, ("reason",)))
        with pytest.raises(qpipe.DeviceError, match=r"^rpi4: .*; "), transport._mapped("it failed"):
            raise error


def test_ssh_config_gives_name_port_user_and_key(sshd, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text(
        f"Host shelf\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.key}\n",
        encoding="utf-8",
    )
    shutil.copy(sshd.known_hosts, home / ".ssh" / "known_hosts")
    monkeypatch.setenv("HOME", str(home))
    device = ssh("rpi4", host="shelf", python=sshd.python, folder=str(tmp_path / "board"))
    assert device.capabilities().cores > 0
    device.close()


def test_a_proxy_in_ssh_config_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host shelf\n  ProxyJump gate\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = "rpi4: ~/.ssh/config asks for proxyjump to shelf; qpipe connects directly"
    assert message({"host": "shelf"}).startswith(expected)


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
    with pytest.raises(qpipe.DeviceError, match=r"^rpi4: source was not transferred: .*(No such file|nonexistent)"):
        device.transport.put(source, str(tmp_path / "none" / "file"), nothing)
    with pytest.raises(qpipe.DeviceError, match=r"was not transferred: .*No such file or directory$"):
        device.transport.get(str(tmp_path / "none"), tmp_path / "back")
    device.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so(options, tmp_path):
    device = ssh("rpi4", **options)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    with pytest.raises(qpipe.DeviceError, match=r"^rpi4: source was not transferred: .*No space left on device$"):
        device.transport.put(source, "/dev/full", nothing)
    device.close()
