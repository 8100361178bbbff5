"""Whose word is taken for a host's key: known_hosts as OpenSSH reads it, none accepted silently."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_ssh import lets_in, new_key, refused

from qpipe_devices.ssh.known_hosts import look_up, pin


def line(key: Path, name: str, marker: str = "") -> str:
    kind, text = key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    return f"{marker} {name} {kind} {text}\n".lstrip()


def fingerprint(key: Path) -> str:
    """As OpenSSH prints it."""
    said = subprocess.run(
        ["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True
    ).stdout.split()
    return f"{said[-1].strip('()')} {said[1]}"


@pytest.fixture
def known(sshd, tmp_path):
    """A known_hosts file, the options of a device that goes by it, and the server's name in it."""
    options = sshd.options(tmp_path / "board")
    return (
        tmp_path / "known",
        {**options, "known_hosts": tmp_path / "known"},
        f"[127.0.0.1]:{sshd.port}",
    )


def test_an_unknown_host_key_is_shown_with_the_command_that_pins_it(sshd, known):
    file, options, _ = known
    assert refused(options, "configuration") == (
        f"rpi4: host key of 127.0.0.1 is not known ({fingerprint(sshd.host_key)}); "
        "compare it and pin it with: qpipe devices rekey rpi4"
    )
    assert not file.exists()


def test_another_host_key_than_the_known_one_is_refused(sshd, known):
    file, options, name = known
    file.write_text(line(sshd.key, name), encoding="utf-8")
    assert refused(options, "configuration") == (
        f"rpi4: host key of 127.0.0.1 is not the one in {file} ({fingerprint(sshd.host_key)}); "
        "if the board was set up anew: qpipe devices rekey rpi4"
    )


def test_a_revoked_host_key_is_refused_wherever_it_is_trusted(sshd, known):
    file, options, name = known
    file.write_text(
        line(sshd.host_key, name) + line(sshd.host_key, "*", "@revoked"), encoding="utf-8"
    )
    assert "host key of 127.0.0.1 is revoked" in refused(options, "configuration")


def test_lines_that_say_nothing_here_cost_nobody_else_their_keys(sshd, known):
    file, options, name = known
    other = line(sshd.key, "*.lab", "@cert-authority") + line(sshd.key, "*", "@revoked")
    text = f"# home\n{other}lab ssh-ed25519 !!!\n\nhalf\n{name} ssh-new AAAA\n|1|x|y ssh-rsa AAAA\n"
    file.write_text(text + line(sshd.host_key, f"elsewhere,{name}"), encoding="utf-8")
    assert lets_in(options)


@pytest.mark.parametrize("pattern", ["[127.0.0.?]:*", "!other,*"])
def test_patterns_stand_for_names(sshd, known, pattern):
    file, options, name = known
    file.write_text(line(sshd.host_key, pattern), encoding="utf-8")
    assert lets_in(options)
    file.write_text(line(sshd.host_key, f"{pattern},!{name}"), encoding="utf-8")
    assert "is not known" in refused(options, "configuration")


def test_names_may_be_hashed(sshd, known):
    file, options, name = known
    file.write_text(line(sshd.host_key, name), encoding="utf-8")
    subprocess.run(["ssh-keygen", "-H", "-f", file], check=True, capture_output=True)
    assert "127.0.0.1" not in file.read_text(encoding="utf-8")
    assert lets_in(options)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_type_of_key_that_is_known_is_asked_for(start_sshd, tmp_path, kind):
    server = start_sshd("ed25519", "ecdsa", "rsa")
    file = tmp_path / "known"
    file.write_text(
        line(server.host_key.with_name(f"host_key_{kind}"), f"[127.0.0.1]:{server.port}"),
        encoding="utf-8",
    )
    assert lets_in({**server.options(tmp_path / "board"), "known_hosts": file})


def test_pinning_replaces_the_keys_of_one_name_alone(sshd, tmp_path):
    file, other = tmp_path / "hosts", new_key(tmp_path / "other")
    kept = f"# mine\n{line(sshd.key, '*', '@revoked')}{line(other, '*.lab')}"
    file.write_text(kept + line(other, "a,b"), encoding="utf-8")
    (key,) = look_up([file], "b").trusted
    file.write_text(
        file.read_text(encoding="utf-8") + line(sshd.key, "a") + line(sshd.host_key, "a"),
        encoding="utf-8",
    )
    file.chmod(0o640)
    pin(file, "a", key)
    assert file.read_text(encoding="utf-8") == kept + line(other, "b") + line(other, "a")
    assert file.stat().st_mode & 0o777 == 0o640
    subprocess.run(["ssh-keygen", "-F", "a", "-f", file], check=True, capture_output=True)
