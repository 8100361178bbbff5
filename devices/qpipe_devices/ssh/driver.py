"""A board reached by SSH: its options in the inventory, and how it becomes known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from qpipe.stages.bounds import Port, Seconds, Silence
from qpipe.types import Device, Introduction
from qpipe_devices.board import Board


def ssh(
    name: str,
    *,
    host: str,
    user: str | None = None,
    port: Port | None = None,
    key: Path | None = None,
    passphrase: str | None = None,
    known_hosts: Path | None = None,
    jump: str | None = None,
    python: str = "python3",
    folder: str = ".qpipe",
    connect_timeout: Seconds | None = None,
    deadline_s: Seconds = 120,
    silence_s: Silence = 30,
    spare_mb: float = 64,
    lock: str = "/tmp/qpipe.lock",  # noqa: S108  (never opened through a link, and nothing is believed that it says)
    sysfs: Path | None = None,
) -> Device:
    """A Linux board reached by SSH, with Python 3.8 or newer and numpy; its host key must be known.

    `host` may be an alias of ssh_config, which is honoured (Include, Match, HostName, User, Port, IdentityFile,
    IdentitiesOnly, UserKnownHostsFile, HostKeyAlias, ProxyJump, ProxyCommand, ConnectTimeout) where no option says
    otherwise; `Match exec` is not. `key` is the one key to log in with; the keys of ssh_config, of ~/.ssh and of an
    agent are tried without. `passphrase` opens it: ${env:NAME}, or leave it to an agent. `jump` is the host to go
    through, user@host:port, several by commas. `known_hosts` is the file with the board's host key; those of ssh_config
    unless given. `connect_timeout` (15 s) bounds the whole way in. `folder` is on the board, relative to the home
    folder there; `spare_mb` of that disk stay free. `deadline_s` bounds each inference and each load of a model,
    `silence_s` the time that the line may be dead. `lock` is a file there that all who measure on the board name
    alike, whatever their user and folder: they have it one at a time. `sysfs` is the folder there that holds its sys
    and proc, / unless given.
    """
    from qpipe_devices.ssh.login import login  # they import paramiko
    from qpipe_devices.ssh.transport import SshTransport

    find = partial(
        login,
        host,
        user=user,
        port=port,
        key=key,
        passphrase=passphrase,
        hosts_file=known_hosts,
        jump=jump,
        timeout=connect_timeout,
    )
    return Board(
        name,
        SshTransport(name, find, silence_s),
        python=python,
        folder=folder,
        deadline_s=deadline_s,
        silence_s=silence_s,
        spare_mb=spare_mb,
        lock=lock,
        sysfs=sysfs,
    )


def enrol(name: str, address: str | None, options: Mapping[str, Any], folder: Path) -> Introduction:
    """What a board shows as its host key: that of a new one by its address, or of one in the inventory."""
    from qpipe_devices.ssh import enrolment  # it imports paramiko

    if address is None:
        return enrolment.again(name, options)
    return enrolment.new(name, address, options, folder)
