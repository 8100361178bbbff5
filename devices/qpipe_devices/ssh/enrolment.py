"""How a board becomes known: its host key is fetched, shown, and, once accepted, pinned.

A new board's key is pinned in `known_hosts` beside devices.yaml, not in the user's own ~/.ssh: whoever has the
inventory has what its boards are known by, and a tool that replaces keys keeps to a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qpipe.errors import DeviceError
from qpipe.types import Introduction
from qpipe_devices.ssh import known_hosts
from qpipe_devices.ssh.connection import Connection
from qpipe_devices.ssh.error_mapping import configured
from qpipe_devices.ssh.known_hosts import HostKey
from qpipe_devices.ssh.login import Login, address, login

PINS = "known_hosts"


def new(name: str, typed: str, options: Mapping[str, Any], folder: Path) -> Introduction:
    """A board by its address, user@host:port; a key that the user's own known_hosts files trust needs no question."""
    with configured(name):
        user, host, port = address(typed)
    given = {
        key: value
        for key, value in (("host", host), ("user", user), ("port", port))
        if value is not None
    }
    given |= {
        key: _written(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    way = _login(name, {**options, "host": host, "user": user, "port": port})
    pins = replace(way, known_hosts=(folder / PINS,))
    return _introduction(name, pins, {**given, "known_hosts": PINS}, vouching=way)


def again(name: str, options: Mapping[str, Any]) -> Introduction:
    """A board of the inventory; its key is pinned where it is looked for first."""
    way = _login(name, options)
    if not way.known_hosts:
        raise DeviceError(
            f"{name}: ssh_config names no known_hosts file; give known_hosts",
            failure="configuration",
        )
    return _introduction(name, way, {}, vouching=way)


def _login(name: str, options: Mapping[str, Any]) -> Login:
    names = {"known_hosts": "hosts_file", "connect_timeout": "timeout"}
    wanted = ("host", "user", "port", "key", "passphrase", "jump", "known_hosts", "connect_timeout")
    given: dict[str, Any] = {names.get(key, key): options.get(key) for key in wanted}
    with configured(name):
        return login(**given)


def _introduction(
    name: str, way: Login, options: Mapping[str, Any], vouching: Login
) -> Introduction:
    pinned = known_hosts.look_up(way.known_hosts, way.known_as).trusted
    vouched = known_hosts.look_up(vouching.known_hosts, vouching.known_as)
    shown = _shown(name, way, pinned)
    if shown in vouched.revoked:
        reason = f"host key of {way.host} is revoked ({shown}); give the host another"
        raise DeviceError(f"{name}: {reason}", failure="configuration")

    def accept() -> str:
        file = way.known_hosts[0]
        with known_hosts.restored(file):
            known_hosts.pin(file, way.known_as, shown)
            connection = Connection(name, way)
            connection.open()
            connection.close()
        return str(file)

    return Introduction(
        options,
        str(shown),
        tuple(map(str, pinned)),
        is_known=shown in (*pinned, *vouched.trusted),
        compare=f"ssh-keygen -lf /etc/ssh/ssh_host_{shown.word}_key.pub",
        accept=accept,
    )


def _shown(name: str, way: Login, pinned: tuple[HostKey, ...]) -> HostKey:
    connection = Connection(name, way)
    try:
        return connection.host_key(pinned)
    finally:
        connection.close()


def _written(path: Path) -> str:
    """As it holds on other machines too, where it is in the home folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
