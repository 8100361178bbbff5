"""Login by key: from files, with their certificates and passphrases, or from an SSH agent."""

from __future__ import annotations

import base64
import binascii
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from paramiko import ECDSAKey, Ed25519Key, PKey, RSAKey, Transport
from paramiko.agent import AgentSSH
from paramiko.ssh_exception import AuthenticationException, PasswordRequiredException, SSHException

from qpipe_devices.ssh.login import Login


def log_in(
    transport: Transport, login: Login, *, register_agent: Callable[[SshAgent], object]
) -> None:
    """Offer one key after another until the host accepts one.

    `register_agent` is called before an agent is asked. An agent may hang, and then another thread
    has to close it.

    Raise AuthenticationException where no key is accepted, PasswordRequiredException where a key
    could not be tried because its passphrase is not known.
    """
    keys = _UserKeys(login, register_agent)
    try:
        is_logged_in = _offer_keys(transport, login.user, keys.offered())
    finally:
        keys.close()
    if is_logged_in:
        return
    if keys.locked:
        path = keys.locked[0]
        if login.passphrase:
            raise PasswordRequiredException(f"the passphrase does not open the key {path}")
        raise PasswordRequiredException(f"the key {path} has a passphrase")
    raise AuthenticationException("no key was accepted")


def _offer_keys(transport: Transport, user: str, keys: Iterator[PKey]) -> bool:
    """Return whether the host accepted one of the keys."""
    for key in keys:
        try:
            further_methods = transport.auth_publickey(user, key)
        except AuthenticationException:
            if not transport.is_active():  # the host has closed: too many failures
                return False
        else:
            if not further_methods:
                return True
    return False


class SshAgent(AgentSSH):
    """The agent at SSH_AUTH_SOCK.

    Closing it, from any thread, ends a request that it does not answer. paramiko's own class leaves
    its socket open where there is no agent, and where it gets no answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.socket = socket.socket(socket.AF_UNIX)

    def read_keys(self) -> dict[bytes, PKey]:
        """Return the agent's keys by their public parts.

        Raise OSError or SSHException where it does not answer.
        """
        self.socket.connect(os.environ.get("SSH_AUTH_SOCK", ""))
        self._connect(self.socket)  # type: ignore[attr-defined]  # missing in the stubs
        return {key.asbytes(): key for key in self.get_keys()}

    def close(self) -> None:
        """Disconnect, also while another thread waits for an answer."""
        with suppress(OSError):  # it was not connected
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class _UserKeys:
    """The keys of a login.

    An agent is asked only where the files do not suffice: it may be slow, or hang.
    """

    def __init__(self, login: Login, register_agent: Callable[[SshAgent], object]) -> None:
        self.login = login
        self.register_agent = register_agent
        self.locked: list[Path] = []  # key files whose passphrase is not known
        self.agents: list[SshAgent] = []

    def offered(self) -> Iterator[PKey]:
        """Yield the keys to offer: those of the files, then the other keys of an agent."""
        for path in self.login.keys:
            try:
                yield _load_key(path, self.login.passphrase)
            except (SSHException, OSError):
                key = self.agent_keys.pop(_read_public_key(path), None)
                if key:
                    yield key
                elif path.is_file() and _is_private_key(path):
                    self.locked.append(path)
        if not self.login.only_keys:
            yield from self.agent_keys.values()

    @cached_property
    def agent_keys(self) -> dict[bytes, PKey]:
        """The keys of an agent by their public parts; none where there is no usable agent."""
        agent = SshAgent()
        self.agents.append(agent)
        self.register_agent(agent)
        try:
            return agent.read_keys()
        except (SSHException, OSError):  # no agent, or one with another protocol
            return {}

    def close(self) -> None:
        for agent in self.agents:
            agent.close()


def _load_key(path: Path, passphrase: str | None) -> PKey:
    """Return a private key, with the certificate beside it.

    Raise SSHException where it is locked or of no supported type.
    """
    locked: PasswordRequiredException | None = None
    for key_class in (Ed25519Key, ECDSAKey, RSAKey):
        try:
            key: PKey = key_class.from_private_key_file(str(path), passphrase)
        except PasswordRequiredException as error:
            locked = error
        except (SSHException, ValueError, IndexError, TypeError):  # of another type, or damaged
            continue
        else:
            certificate = path.with_name(f"{path.name}-cert.pub")
            if certificate.is_file():
                key.load_certificate(str(certificate))
            return key
    raise locked or SSHException(f"{path}: this is not a key of a supported type")


def _read_public_key(path: Path) -> bytes:
    """Return the public part of a key file, from the .pub file beside it; b"" without one."""
    file = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
    try:
        return base64.b64decode(file.read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError, UnicodeDecodeError, binascii.Error):
        return b""


def _is_private_key(path: Path) -> bool:
    return "PRIVATE KEY" in path.read_text(encoding="utf-8", errors="replace")[:100]
