"""Where and as whom one logs in: the inventory's options over ssh_config, with the jump hosts on the way."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from paramiko import SSHConfigDict
from paramiko.ssh_exception import ConfigParseError

from qpipe_devices.ssh import known_hosts, ssh_config

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_ed25519_sk", "id_ecdsa_sk", "id_rsa")
USER_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
CONNECT_S = 15.0
MOST_JUMPS = 8
ADDRESS = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^@:]+))(?::(?P<port>\d+))?/?"
)
SIX = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?P<host>[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*)"
)
# what OpenSSH refuses as well: a ProxyCommand puts these words before a shell
UNSAFE = re.compile(r"^-|[\s'`\"$\\;&<>|(){}]")


@dataclass(frozen=True)
class Login:
    """One way in: to which host, as whom, by which keys, and whose word is taken for the host's own key."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    only_keys: bool  # no other that an agent holds
    known_hosts: tuple[Path, ...]
    known_as: str  # the host's name in them
    timeout: float  # seconds for the whole way in, jump hosts included
    command: str | None = None  # its input and output are the connection (ProxyCommand)
    gate: Login | None = None  # the jump host before it
    passphrase: str | None = field(default=None, repr=False)

    @property
    def at(self) -> str:
        """Host and port, as one would write them."""
        return f"{self.host}:{self.port}" if self.port != 22 else self.host


def login(
    host: str,
    *,
    user: str | None = None,
    port: int | None = None,
    key: Path | None = None,
    hosts_file: Path | None = None,
    jump: str | None = None,
    passphrase: str | None = None,
    timeout: float | None = None,
    jumps: int = 0,
) -> Login:
    """The way to a host by its name or its alias in ssh_config; None leaves a setting to that.

    ConfigParseError where ssh_config, or a jump, makes no sense.
    """
    if jumps > MOST_JUMPS:
        raise ConfigParseError(
            f"the jumps to {host} go round in circles; give the jump host 'ProxyJump none'"
        )
    seconds = None if timeout is None else max(1, round(timeout))
    first = {"User": user, "Port": port, "ProxyJump": jump, "ConnectTimeout": seconds}
    config = ssh_config.settings(host, first)
    name = _word(config, "hostname", host)
    who = _word(config, "user", getpass.getuser())
    for text in (host, name, who):
        if UNSAFE.search(text):
            raise ConfigParseError(
                f"'{text}' is no host and no user; give host as a name or an address, and user"
            )
    number = _number(config, "port", 22)
    hop, command = _way(config, host, passphrase, jumps)
    alias = config.get("hostkeyalias")
    return Login(
        name,
        number,
        who,
        keys=_keys(config) if key is None else (_named(key),),
        only_keys=key is not None or config.get("identitiesonly", "no").lower() == "yes",
        known_hosts=(hosts_file.expanduser(),) if hosts_file else _files(config, host),
        known_as=alias.lower() if alias else known_hosts.name_of(name, number),
        timeout=timeout or _number(config, "connecttimeout", CONNECT_S),
        command=command,
        gate=hop,
        passphrase=passphrase,
    )


def address(text: str) -> tuple[str | None, str, int | None]:
    """User, host and port of `[user@]host[:port]`; ValueError for what is none. IPv6 with a port is `[::1]:22`."""
    found = SIX.fullmatch(text) or ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no address; write user@host or user@host:port")
    parts = found.groupdict()
    port = parts.get("port")
    return parts["user"], str(parts["host"] or parts["six"]), int(port) if port else None


def _way(
    config: SSHConfigDict, host: str, passphrase: str | None, jumps: int
) -> tuple[Login | None, str | None]:
    """The jump host before a host, or the command that leads there: whichever of the two is said first."""
    chosen = next((key for key in config if key in ("proxyjump", "proxycommand")), "")
    value = config.get(chosen)
    if not value or value.lower() == "none":
        return None, None
    if chosen == "proxycommand":
        return None, value
    before, _, last = value.replace(" ", "").rpartition(",")
    try:
        user, name, port = address(last)
    except ValueError as error:
        raise ConfigParseError(f"jump: {error}") from error
    if name == host:  # `Host *` sends the jump host through itself
        return None, None
    # without jumps written before it, the jump host's own entry says how it is reached
    return login(
        name, user=user, port=port, jump=before or None, passphrase=passphrase, jumps=jumps + 1
    ), None


def _named(key: Path) -> Path:
    path = key.expanduser()
    if not _has_key(path):
        raise ConfigParseError(f"there is no key file {path}; correct key")
    return path


def _has_key(path: Path) -> bool:
    """The key is there, or its public part: then an agent may hold it."""
    return path.is_file() or path.with_name(f"{path.name}.pub").is_file()


def _keys(config: SSHConfigDict) -> tuple[Path, ...]:
    if "identityfile" not in config:
        folder = Path("~/.ssh").expanduser()
        return tuple(folder / name for name in DEFAULT_KEYS if (folder / name).is_file())
    named = [_expanded(value) for value in config["identityfile"] if value.lower() != "none"]
    return tuple(filter(_has_key, named))


def _files(config: SSHConfigDict, host: str) -> tuple[Path, ...]:
    """The known_hosts files that count; those of the user first, for that is where a key is pinned."""
    given = [
        ssh_config.words(config[key]) if key in config else list(default)
        for key, default in (
            ("userknownhostsfile", USER_HOSTS),
            ("globalknownhostsfile", SYSTEM_HOSTS),
        )
    ]
    tokens = {
        "%d": str(Path.home()),
        "%h": config.get("hostname", host),
        "%k": config.get("hostkeyalias", host),
        "%n": host,
        "%p": config.get("port", "22"),
        "%r": config.get("user", getpass.getuser()),
        "%u": getpass.getuser(),
    }
    files = []
    for text in (text for texts in given for text in texts if text.lower() != "none"):
        for token, value in tokens.items():
            text = text.replace(token, value)
        files.append(_expanded(text))
    return tuple(files)


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _word(config: SSHConfigDict, key: str, default: str) -> str:
    return next(iter(ssh_config.words(config.get(key, ""))), default)


def _number(config: SSHConfigDict, key: str, default: float) -> int:
    word = _word(config, key, str(round(default)))
    if word.isdigit() and 0 < int(word) <= 65_535:
        return int(word)
    raise ConfigParseError(f"ssh_config: {key} is '{word}'; give a number")
