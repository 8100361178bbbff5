"""How a board becomes trusted: its host key is fetched, shown and, once accepted, pinned.

The key of a new board is pinned in `known_hosts` beside devices.yaml, not in the user's ~/.ssh: who
has the inventory also has the host keys of its boards, and a tool that replaces keys changes only a
file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qpipe.errors import DeviceError
from qpipe.types import Introduction
from qpipe_devices.ssh import known_hosts
from qpipe_devices.ssh.connection import Connection
from qpipe_devices.ssh.error_mapping import mapped_config_errors
from qpipe_devices.ssh.known_hosts import HostKey
from qpipe_devices.ssh.login import Login, parse_address, resolve_login

PINNED_KEYS_FILE = "known_hosts"


def introduce_new(
    device_name: str, typed_address: str, options: Mapping[str, Any], folder: Path
) -> Introduction:
    """Return the introduction of a new board by its address, user@host:port.

    A key that the user's own known_hosts files trust is not asked about. `folder` is that of the
    inventory.
    """
    with mapped_config_errors(device_name):
        address = parse_address(typed_address)
    address_options = {"host": address.host, "user": address.user, "port": address.port}
    login = _resolve_login(device_name, {**options, **address_options})
    pinning_login = replace(login, known_hosts=(folder / PINNED_KEYS_FILE,))
    entry = {key: value for key, value in address_options.items() if value is not None}
    entry |= {key: _portable_option(value) for key, value in options.items()}
    entry["known_hosts"] = PINNED_KEYS_FILE
    return _introduce(device_name, pinning_login, entry=entry, trusted_by=login.known_hosts)


def introduce_again(device_name: str, options: Mapping[str, Any]) -> Introduction:
    """Return the introduction of a board in the inventory.

    Its key is pinned in the first file where it is looked up.
    """
    login = _resolve_login(device_name, options)
    if not login.known_hosts:
        raise DeviceError(
            f"{device_name}: ssh_config names no known_hosts file; give known_hosts",
            failure="configuration",
        )
    return _introduce(device_name, login, entry={}, trusted_by=login.known_hosts)


def _resolve_login(device_name: str, options: Mapping[str, Any]) -> Login:
    with mapped_config_errors(device_name):
        return resolve_login(
            options["host"],
            user=options.get("user"),
            port=options.get("port"),
            key=options.get("key"),
            passphrase=options.get("passphrase"),
            jump=options.get("jump"),
            known_hosts_file=options.get("known_hosts"),
            timeout=options.get("connect_timeout"),
        )


def _introduce(
    device_name: str, login: Login, *, entry: Mapping[str, Any], trusted_by: tuple[Path, ...]
) -> Introduction:
    """Return the introduction of a board whose key is pinned in the login's first file.

    `trusted_by` are the known_hosts files whose trusted keys need no question.
    """
    pinned_keys = known_hosts.look_up(login.known_hosts, login.known_as).trusted
    user_keys = known_hosts.look_up(trusted_by, login.known_as)
    shown_key = _fetch_host_key(device_name, login, pinned_keys)
    if shown_key in user_keys.revoked:
        raise DeviceError(
            f"{device_name}: host key of {login.host} is revoked ({shown_key}); "
            "give the host a new key",
            failure="configuration",
        )
    return Introduction(
        entry,
        str(shown_key),
        tuple(str(key) for key in pinned_keys),
        is_known=shown_key in (*pinned_keys, *user_keys.trusted),
        compare=f"ssh-keygen -lf /etc/ssh/ssh_host_{shown_key.short_kind}_key.pub",
        accept=_Acceptance(device_name, login, shown_key),
    )


@dataclass(frozen=True)
class _Acceptance:
    """Pins a host key and logs in; a login that fails leaves the file as it was."""

    device_name: str
    login: Login
    key: HostKey

    def __call__(self) -> str:
        """Return the file in which the key is pinned."""
        file = self.login.known_hosts[0]
        with known_hosts.restored_on_error(file):
            known_hosts.pin(file, self.login.known_as, self.key)
            connection = Connection(self.device_name, self.login)
            connection.open()
            connection.close()
        return str(file)


def _fetch_host_key(device_name: str, login: Login, pinned_keys: tuple[HostKey, ...]) -> HostKey:
    connection = Connection(device_name, login)
    try:
        return connection.host_key(pinned_keys)
    finally:
        connection.close()


def _portable_option(value: Any) -> Any:
    """Return an option as it is valid on other machines too: a path in the home folder with ~."""
    if not isinstance(value, Path):
        return value
    home = Path.home()
    if value.is_relative_to(home):
        return f"~/{value.relative_to(home)}"
    return str(value)
