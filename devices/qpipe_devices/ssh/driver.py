"""The driver `ssh`: its options in the inventory, and the introduction of a board."""

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
    min_free_mb: float = 64,
    lock: str = "/tmp/qpipe.lock",  # noqa: S108  (never opened through a link, and not believed)
    sysfs: Path | None = None,
) -> Device:
    """A Linux board reached by SSH, with Python 3.8 or newer and numpy; its host key must be known.

    `host` may be an alias of ssh_config, which applies where no option says otherwise: Include,
    Match (its exec too), HostName, User, Port, IdentityFile, IdentitiesOnly,
    UserKnownHostsFile, HostKeyAlias, ProxyJump, ProxyCommand and ConnectTimeout.

    `key` is the only key to log in with; without it the keys of ssh_config, of ~/.ssh and of an
    agent are tried. `passphrase` decrypts the key: write ${env:NAME}, or leave it to an agent.
    `jump` is the host to connect through, user@host:port, or several separated by commas.
    `known_hosts` is the file with the board's host key; by default those of ssh_config are used.
    `connect_timeout` limits the time to connect and log in, in seconds (15 by default).

    `folder` is the folder for qpipe's files on the board, relative to the home folder; on its disk
    `min_free_mb` stay free. `deadline_s` limits each inference and each load of a model,
    `silence_s` how long the connection may be dead. `lock` is a file on the board: all users who
    name the same file use the board one at a time, whatever their folders. `sysfs` is the folder on
    the board that contains sys and proc, / by default.
    """
    # imported here: they import paramiko
    from qpipe_devices.ssh.login import resolve_login
    from qpipe_devices.ssh.transport import SshTransport

    resolve = partial(
        resolve_login,
        host,
        user=user,
        port=port,
        key=key,
        passphrase=passphrase,
        known_hosts_file=known_hosts,
        jump=jump,
        timeout=connect_timeout,
    )
    return Board(
        name,
        SshTransport(name, resolve, silence_s),
        python=python,
        folder=folder,
        deadline_s=deadline_s,
        silence_s=silence_s,
        min_free_mb=min_free_mb,
        lock=lock,
        sysfs=sysfs,
    )


def enrol(name: str, address: str | None, options: Mapping[str, Any], folder: Path) -> Introduction:
    """Ask a board for its host key: a new one by its address, or one of the inventory."""
    from qpipe_devices.ssh import enrolment  # imported here: it imports paramiko

    if address is None:
        return enrolment.introduce_again(name, options)
    return enrolment.introduce_new(name, address, options, folder)
