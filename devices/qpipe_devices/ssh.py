"""A board reached by SSH: where it is, from the inventory and ~/.ssh/config; the connection is in ssh_transport."""

from __future__ import annotations

from pathlib import Path

from qpipe.amounts import Port, Seconds
from qpipe.types import Device
from qpipe_devices.link import Link

KNOWN_HOSTS = Path("~/.ssh/known_hosts")


def ssh(
    name: str,
    *,
    host: str,
    user: str | None = None,
    port: Port | None = None,
    key: Path | None = None,
    known_hosts: Path | None = None,
    python: str = "python3",
    folder: str = ".qpipe",
    connect_timeout: Seconds = 15,
    deadline_s: Seconds = 120,
    silence_s: Seconds = 30,
    spare_mb: float = 64,
) -> Device:
    """A Linux board reached by SSH, with Python 3.8 or newer and numpy; its host key must be known.

    `host` may be an alias of ~/.ssh/config (HostName, User, Port and IdentityFile are honoured). Without `key` the keys
    of ~/.ssh and of an agent are tried; `known_hosts` is ~/.ssh/known_hosts unless given. `folder` is on the board,
    relative to the home folder there; `spare_mb` of that disk stay free. `deadline_s` bounds each inference and each
    load of a model, `silence_s` the time that the line may be dead.
    """
    from qpipe_devices.ssh_transport import SshTransport  # it imports paramiko

    transport = SshTransport(name, host, user, port, key, known_hosts or KNOWN_HOSTS, connect_timeout)
    return Link(
        name, transport, python=python, folder=folder, deadline_s=deadline_s, silence_s=silence_s, spare_mb=spare_mb
    )  # fmt: skip
