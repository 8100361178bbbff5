"""ssh_config as OpenSSH reads it: expected settings are those of `ssh -G`; jumps and commands lead to real servers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_ssh import lets_in, new_key, refused
from test_ssh_host_keys import line

from qpipe_devices.ssh import ssh_config
from qpipe_devices.ssh.config_words import split_words
from qpipe_devices.ssh.login import Login, parse_address, resolve_login


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes ~/.ssh/config, and what lies beside it, in a home folder of the test."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    def write(text: str, **beside: str) -> Path:
        for name, content in {"config": text, **beside}.items():
            (home / ".ssh" / name).write_text(content, encoding="utf-8")
        return home / ".ssh"

    return write


NESTED = """
Include first second*
Port 2201
Host shelf
  HostName 10.0.0.7
  Include inner
  User inside # the one
Match originalhost "shelf*" user me,inside
  Port=2202
  ConnectTimeout 7
Host *
  User everyone
  IdentitiesOnly yes
  HostKeyAlias Board
"""
BESIDE = {
    "first": "Host elsewhere\n  Port 1\n  HostName nowhere\n",
    "second_a": "Host shelf2\n  Port 2203\nMatch host shelf3 user me\n  HostName 10.0.0.9\n",
    "inner": "Host shelf2\n  HostName 10.0.0.8\nHost shelf\n  User inner\n",
}


@pytest.mark.skipif(shutil.which("ssh") is None, reason="compares with ssh -G")
@pytest.mark.parametrize("host", ["shelf", "shelf2", "shelf3", "elsewhere", "other"])
@pytest.mark.parametrize("user", [None, "me"])
def test_settings_are_those_of_openssh(config, host, user, tmp_path):
    folder = config(NESTED, **BESIDE)
    # ssh takes the home folder from the system, so its includes are given in full
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    text = NESTED.replace("first second*", f"{own}/first {own}/second*").replace(
        "inner\n", f"{own}/inner\n", 1
    )
    (own / "config").write_text(text, encoding="utf-8")
    command = ["ssh", "-G", "-F", own / "config", *(["-l", user] if user else []), host]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    expected = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    found = resolve_login(host, user=user)
    assert (found.host, found.user, str(found.port)) == (
        expected["hostname"],
        expected["user"],
        expected["port"],
    )
    assert found.timeout == (
        15 if expected["connecttimeout"] == "none" else float(expected["connecttimeout"])
    )
    assert (found.only_keys, found.known_as) == (True, "board")


def test_options_win_over_ssh_config(config):
    config("Host shelf\n  User a\n  Port 1\n  ConnectTimeout 3\n  ProxyJump gate\n")
    found = resolve_login("shelf", user="b", port=2, timeout=4, jump="none")
    assert (found.user, found.port, found.timeout, found.jump_host) == ("b", 2, 4, None)


def test_several_keys_and_known_hosts_are_taken_in_their_order(config):
    folder = config(
        "IdentityFile ~/.ssh/two\nIdentityFile %d/.ssh/one\nIdentityFile missing\n"
        "UserKnownHostsFile ~/.ssh/%n /b \nGlobalKnownHostsFile none\n",
        one="", two="",
    )  # fmt: skip
    found = resolve_login("shelf")
    assert found.keys == (folder / "two", folder / "one")
    assert found.known_hosts == (folder / "shelf", Path("/b"))


ODD_LINES = {
    "comments": "Host shelf # a\n User bob # b\n Port 2222 #c\n HostKeyAlias al # d\n IdentitiesOnly yes #\n",
    "a # in a word": "User a#b\nHostName 10.0.0.1#x\n",
    "quotes": 'Host "shelf"\n User "bob"\n Port = "2200"\n HostName=\'10.0.0.2\' # e\n',
    "equals": "Host=shelf\nUser=bob\nPort =7\nHostName= 10.0.0.3\nConnectTimeout=none\n",
    "tabs": "Host\tshelf\n\tUser\tbob\n",
    "negated": "Host * !shelf\n User a\nHost sh?lf\n User b\n",
    "case": "Host shelf\n HostName FOO.Example\nHost SHELF\n User b\n",
    "exec": 'Host shelf\n HostName 10.0.0.1\nMatch exec "test %h = 10.0.0.1 && test %n = shelf"\n User c\n',
    "negated exec": "Match exec false\n User a\nMatch !exec false\n User b\n",
    "resolved host": "Host shelf\n HostName 10.0.0.9\nMatch host 10.0.0.*\n User x\n",
    "negated match": "Match !host shelf\n User x\nMatch !originalhost y\n User z\n",
    "final": "Host shelf\n HostName %h.x\nMatch final host shelf.x\n Port 99\nHost shelf.x\n User late\n",
    "all": "Match all\n User a\n User b\n",
    "jump": "ProxyJump gate # no more\nProxyCommand none\n",
}  # fmt: skip


@pytest.mark.skipif(shutil.which("ssh") is None, reason="compares with ssh -G")
@pytest.mark.parametrize("text", ODD_LINES.values(), ids=ODD_LINES)
def test_odd_lines_mean_what_they_mean_to_openssh(config, text):
    file = config(text) / "config"
    said = subprocess.run(["ssh", "-G", "-F", file, "shelf"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    expected = dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)
    login = resolve_login("shelf")
    assert (login.host, login.user, str(login.port)) == (
        expected["hostname"],
        expected["user"],
        expected["port"],
    )
    assert login.only_keys == (expected["identitiesonly"] == "yes")
    if "hostkeyalias" in expected:
        assert login.known_as == expected["hostkeyalias"]
    jump = login.jump_host.host if login.jump_host else None
    assert jump == expected.get("proxyjump")


def test_words_end_at_comments_and_keep_what_quotes_enclose():
    line = r'"a b" c\ d \'"e\"f" g#h \i "" # x'
    assert split_words(line) == ["a b", "c d", "'e\"f", "g#h", "\\i", ""]


def test_tokens_and_variables_are_replaced_in_paths(config, monkeypatch):
    monkeypatch.setenv("SHELF", "keys")
    folder = config(
        "User u\nIdentityFile ~/.ssh/%h_%n_%r_%p_%% # k\nIdentityFile ~/.ssh/${SHELF}\n"
    )
    assert resolve_login("shelf").missing_keys == (folder / "shelf_shelf_u_22_%", folder / "keys")


def test_match_exec_runs_its_command_only_where_the_rest_applies(config, tmp_path):
    config(
        f'Match originalhost other exec "touch {tmp_path}/ran"\n Port 1\n'
        f'Match exec "touch {tmp_path}/%n"\n Port 2\n'
    )
    assert resolve_login("shelf").port == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["shelf"]


def test_match_exec_ends_in_time(config, monkeypatch):
    monkeypatch.setattr(ssh_config, "MATCH_EXEC_S", 0.2)
    config('Match exec "sleep 60"\n Port 1\n')
    said = refused({"host": "a"}, "configuration")
    assert said.endswith("takes longer than 0.2 s; correct it, or remove that Match")


def test_a_named_key_that_is_missing_is_named(config, sshd, tmp_path):
    other = new_key(tmp_path / "other")
    text = entry("shelf", sshd).replace(str(sshd.key), str(other))
    folder = config(text + "  IdentityFile ~/.ssh/gone # my key\n")
    said = refused({"host": "shelf"}, "configuration")
    assert f"accepts none of {other} and of an agent " in said
    assert f"(ssh_config also names {folder}/gone, which is not there)" in said


@pytest.mark.parametrize(("text", "reason"), [
    ("Port x\n", "ssh_config: port is 'x'; give a number"),
    ("User 'me\n", "config:1: a quote is not closed in '\'me'; close it"),
    ("User # me\n", "config:1: a keyword has no value; write one"),
    ("Match localnetwork 10.0.0.0/8\n", "Match localnetwork is not supported; "
     "there is all, canonical, final, host, originalhost, user, localuser, exec"),
    ("Match host\n", "config:1: Match host has no value; write what it must be"),
    ("IdentityFile /%x\n", "there is no %x in '/%x'; there is %C, %L, %d, %h, %i, %j, %k, %l, %n, %p, %r, %u"),
    ("IdentityFile ${NOT_SET}\n", "${NOT_SET} of '${NOT_SET}' is not set; set it"),
    ("Garbage\n", "config:1: 'Garbage' is not a setting; write a keyword and a value"),
    ("Include config\n", "files include each other more than 16 deep; remove one Include"),
    ("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "form a circle; give the jump host 'ProxyJump none'"),
    ("ProxyJump a@b@c:d\n", "jump: 'a@b@c:d' is not an address; write user@host or user@host:port"),
])  # fmt: skip
def test_what_makes_no_sense_is_told_in_one_line(config, text, reason):
    config(text)
    said = refused({"host": "a"}, "configuration")
    assert said.startswith("rpi4: ")
    assert said.endswith(reason)


@pytest.mark.parametrize(("text", "parts"), [
    ("pi@10.0.0.7", ("pi", "10.0.0.7", None)), ("shelf:2222", (None, "shelf", 2222)),
    ("ssh://pi@shelf:22/", ("pi", "shelf", 22)), ("pi@[fe80::1]:2222", ("pi", "fe80::1", 2222)),
    ("fe80::1", (None, "fe80::1", None)),
])  # fmt: skip
def test_addresses(text, parts):
    assert parse_address(text) == parts


def chain(found: Login | None) -> list[str]:
    return [*chain(found.jump_host), f"{found.user}@{found.address}"] if found else []


def test_jumps_follow_each_other_each_by_its_own_entry(config):
    config("""
Host far
  User f
  ProxyJump one,you@two:2222
Host one
  HostName 10.0.0.1
  User o
  ProxyJump zero
Host zero
  User z
Host two
  ProxyJump nobody
""")
    assert chain(resolve_login("far")) == ["z@zero", "o@10.0.0.1", "you@two:2222", "f@far"]


def test_a_jump_host_is_not_reached_through_itself(config):
    config("Host *\n  User u\n  ProxyJump gate\n")
    assert chain(resolve_login("far")) == ["u@gate", "u@far"]


@pytest.fixture
def gate(start_sshd):
    return start_sshd("ed25519")


def entry(name: str, server, *more: str) -> str:
    lines = (
        f"HostName {server.host}",
        f"Port {server.port}",
        f"User {server.user}",
        f"IdentityFile {server.key}",
    )
    return (
        "\n  ".join([f"Host {name}", *lines, f"UserKnownHostsFile {server.known_hosts}", *more])
        + "\n"
    )


def test_a_board_behind_a_jump_host(config, sshd, gate):
    config(entry("shelf", sshd, "ProxyJump gate") + entry("gate", gate))
    assert lets_in({"host": "shelf"})


def test_a_board_behind_two_jump_hosts_given_in_the_inventory(config, sshd, gate):
    config(entry("gate", gate) + entry("again", gate))
    options = {
        key: value
        for key, value in sshd.options(Path("x")).items()
        if key in ("port", "user", "key")
    }
    options |= {"host": "127.0.0.1", "known_hosts": sshd.known_hosts, "jump": "gate,again"}
    assert lets_in(options)


def test_the_host_key_of_a_jump_host_is_checked_too(config, sshd, gate, tmp_path):
    config(
        entry("shelf", sshd, "ProxyJump gate")
        + entry("gate", gate).replace(str(gate.known_hosts), "/none")
    )
    said = refused({"host": "shelf"}, "configuration")
    assert said.startswith("rpi4: host key of jump host 127.0.0.1 is not known (ED25519 ")
    assert said.endswith(f"; log in to it by hand once: ssh -p {gate.port} {gate.user}@127.0.0.1")


def test_a_jump_host_that_does_not_let_us_in_is_named(config, sshd, gate, tmp_path):
    other = new_key(tmp_path / "other")
    config(
        entry("shelf", sshd, "ProxyJump gate")
        + entry("gate", gate).replace(str(gate.key), str(other))
    )
    said = refused({"host": "shelf"}, "configuration")
    assert said.startswith(
        f"rpi4: jump host 127.0.0.1: {gate.user}@127.0.0.1:{gate.port} accepts none of {other}"
    )


def test_a_jump_host_that_does_not_reach_the_board_says_so(config, gate):
    config(entry("gate", gate))
    said = refused({"host": "127.0.0.1", "port": 1, "jump": "gate"}, "unreachable")
    assert (
        said
        == "rpi4: jump host 127.0.0.1 does not reach 127.0.0.1:1: connect failed; is that its address?"
    )


RELAY = """
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def pump():
    while part := there.recv(65536):
        os.write(1, part)
threading.Thread(target=pump, daemon=True).start()
while part := os.read(0, 65536):
    there.sendall(part)
"""


def test_a_proxy_command_is_the_way_and_ends_with_the_connection(config, sshd, tmp_path):
    (tmp_path / "relay.py").write_text(RELAY, encoding="utf-8")
    config(entry("shelf", sshd, f"ProxyCommand {sys.executable} {tmp_path}/relay.py %h %p"))
    assert lets_in({"host": "shelf"})
    assert not subprocess.run(["pgrep", "-f", f"{tmp_path}/relay.py"], capture_output=True).stdout


def test_a_proxy_command_that_fails_is_an_end_not_a_wait(config, sshd):
    config(entry("shelf", sshd, "ProxyCommand false"))
    assert refused({"host": "shelf"}, "unreachable").startswith("rpi4: the SSH connection failed: ")


def test_the_alias_is_the_name_of_the_host_key(config, sshd, tmp_path):
    known = tmp_path / "known"
    config(
        entry("shelf", sshd, "HostKeyAlias the-board").replace(str(sshd.known_hosts), str(known))
    )
    known.write_text(line(sshd.host_key, "the-board"), encoding="utf-8")
    assert lets_in({"host": "shelf"})
