"""How to log in to a host: the options of the inventory over ssh_config, and the jump hosts."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from paramiko.ssh_exception import ConfigParseError

from qpipe_devices.ssh import known_hosts
from qpipe_devices.ssh.config_words import expand_tokens, expand_variables
from qpipe_devices.ssh.ssh_config import Settings, first_word, host_tokens, read_settings

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_ed25519_sk", "id_ecdsa_sk", "id_rsa")
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
DEFAULT_TIMEOUT_S = 15.0
LAST_PORT = 65_535
MOST_JUMPS = 8
ADDRESS = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?"
    r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^@:]+))"
    r"(?::(?P<port>\d+))?/?"
)
IPV6_ADDRESS = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?P<host>[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*)"
)
# refused by OpenSSH as well: a ProxyCommand passes these names to a shell
UNSAFE_NAME = re.compile(r"^-|[\s'`\"$\\;&<>|(){}]")


@dataclass(frozen=True)
class Login:
    """The settings of one login: host, user, keys, and the files that list the host's own key."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    missing_keys: tuple[Path, ...]  # that ssh_config names
    only_keys: bool  # whether the other keys of an agent are not tried
    known_hosts: tuple[Path, ...]
    known_as: str  # the host's name in the known_hosts files
    timeout: float  # seconds to log in, including all jump hosts
    command: str | None = None  # its stdin and stdout are the connection (ProxyCommand)
    jump_host: Login | None = None  # to connect through
    passphrase: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The host, with its port where that is not 22."""
        if self.port == known_hosts.SSH_PORT:
            return self.host
        return f"{self.host}:{self.port}"


class Address(NamedTuple):
    """The parts of `[user@]host[:port]`; None for those that are not written."""

    user: str | None
    host: str
    port: int | None


class _Route(NamedTuple):
    """How to reach a host: through a jump host, by a command, or directly."""

    jump_host: Login | None = None
    command: str | None = None


def resolve_login(
    host: str,
    *,
    user: str | None = None,
    port: int | None = None,
    key: Path | None = None,
    known_hosts_file: Path | None = None,
    jump: str | None = None,
    passphrase: str | None = None,
    timeout: float | None = None,
    jump_count: int = 0,
) -> Login:
    """Return the login of a host, by its name or its alias in ssh_config.

    Options that are None are left to ssh_config. Raise ConfigParseError where ssh_config or `jump`
    is invalid.
    """
    if jump_count > MOST_JUMPS:
        raise ConfigParseError(
            f"the jump hosts of {host} form a circle; give the jump host 'ProxyJump none'"
        )
    whole_seconds = None if timeout is None else max(1, round(timeout))
    options = {"User": user, "Port": port, "ProxyJump": jump, "ConnectTimeout": whole_seconds}
    config = read_settings(host, options)
    host_name = first_word(config, "hostname", host)
    user_name = first_word(config, "user", getpass.getuser())
    _check_names(host, host_name, user_name)
    port_number = _number(config, "port", known_hosts.SSH_PORT)
    tokens = host_tokens(config, host, host_name)
    route = _resolve_route(config, host, tokens, passphrase=passphrase, jump_count=jump_count)
    named_keys = [] if key else _named_keys(config, tokens)
    alias = first_word(config, "hostkeyalias", "")
    default_known_as = known_hosts.known_hosts_name(host_name, port_number)
    return Login(
        host_name,
        port_number,
        user_name,
        keys=_keys(config, named_keys) if key is None else (_existing_key(key),),
        missing_keys=tuple(path for path in named_keys if not _key_exists(path)),
        only_keys=key is not None or first_word(config, "identitiesonly", "no").lower() == "yes",
        known_hosts=_known_hosts_files(config, tokens, known_hosts_file),
        known_as=alias.lower() if alias else default_known_as,
        timeout=timeout or _timeout(config),
        command=route.command,
        jump_host=route.jump_host,
        passphrase=passphrase,
    )


def parse_address(text: str) -> Address:
    """Return the parts of `[user@]host[:port]`; raise ValueError for anything else.

    An IPv6 address with a port is written `[::1]:22`.
    """
    match = IPV6_ADDRESS.fullmatch(text) or ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not an address; write user@host or user@host:port")
    parts = match.groupdict()
    host = parts["host"] or parts["ipv6"]
    port = parts.get("port")
    return Address(parts["user"], host, int(port) if port else None)


def _check_names(*names: str) -> None:
    for name in names:
        if UNSAFE_NAME.search(name):
            raise ConfigParseError(
                f"'{name}' is not a valid host or user name; "
                "give host as a name or an address, and user"
            )


def _resolve_route(
    config: Settings,
    host: str,
    tokens: Mapping[str, str],
    *,
    passphrase: str | None,
    jump_count: int,
) -> _Route:
    """Return the route to a host: by ProxyJump or ProxyCommand, whichever is set first."""
    proxy_keys = [key for key in config if key in ("proxyjump", "proxycommand")]
    if not proxy_keys:
        return _Route()
    proxy_key = proxy_keys[0]
    value = first_word(config, proxy_key, "")
    if not value or value.lower() == "none":
        return _Route()
    value = expand_tokens(value, tokens)
    if proxy_key == "proxycommand":
        return _Route(command=value)
    earlier_jumps, _, last_jump = value.replace(" ", "").rpartition(",")
    try:
        jump_address = parse_address(last_jump)
    except ValueError as error:
        raise ConfigParseError(f"jump: {error}") from error
    if jump_address.host == host:  # a `Host *` would send the jump host through itself
        return _Route()
    jump_host = resolve_login(
        jump_address.host,
        user=jump_address.user,
        port=jump_address.port,
        jump=earlier_jumps or None,  # None: by the jump host's own entry in ssh_config
        passphrase=passphrase,
        jump_count=jump_count + 1,
    )
    return _Route(jump_host=jump_host)


def _existing_key(key: Path) -> Path:
    path = key.expanduser()
    if not _key_exists(path):
        raise ConfigParseError(f"there is no key file {path}; correct key")
    return path


def _key_exists(path: Path) -> bool:
    """Return whether there is a key file, or its public part: an agent may hold the private one."""
    return path.is_file() or path.with_name(f"{path.name}.pub").is_file()


def _named_keys(config: Settings, tokens: Mapping[str, str]) -> list[Path]:
    """Return the key files that ssh_config names, whether or not they exist."""
    names = [name for name in config.get("identityfile", ()) if name.lower() != "none"]
    return [_expand_path(name, tokens) for name in names]


def _keys(config: Settings, named_keys: Sequence[Path]) -> tuple[Path, ...]:
    if "identityfile" not in config:
        folder = Path("~/.ssh").expanduser()
        default_paths = [folder / name for name in DEFAULT_KEYS]
        return tuple(path for path in default_paths if path.is_file())
    return tuple(path for path in named_keys if _key_exists(path))


def _known_hosts_files(
    config: Settings, tokens: Mapping[str, str], file: Path | None
) -> tuple[Path, ...]:
    """Return the known_hosts files to read: `file` alone, or those of ssh_config.

    The user's files come first, because the first one is where a key is pinned.
    """
    if file:
        return (file.expanduser(),)
    user_files = config.get("userknownhostsfile", USER_KNOWN_HOSTS)
    system_files = config.get("globalknownhostsfile", SYSTEM_KNOWN_HOSTS)
    names = [name for name in (*user_files, *system_files) if name.lower() != "none"]
    return tuple(_expand_path(name, tokens) for name in names)


def _expand_path(text: str, tokens: Mapping[str, str]) -> Path:
    return Path(expand_variables(expand_tokens(text, tokens))).expanduser()


def _timeout(config: Settings) -> float:
    if first_word(config, "connecttimeout", "none").lower() == "none":
        return DEFAULT_TIMEOUT_S
    return _number(config, "connecttimeout", DEFAULT_TIMEOUT_S)


def _number(config: Settings, key: str, default: float) -> int:
    word = first_word(config, key, str(round(default)))
    if word.isdigit() and 0 < int(word) <= LAST_PORT:
        return int(word)
    raise ConfigParseError(f"ssh_config: {key} is '{word}'; give a number")
