"""Logging in by key: files, with their certificates and passphrases, and what an agent holds."""

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


def log_in(transport: Transport, login: Login, keep: Callable[[Agent], object]) -> None:
    """Offer one key after the other until one is taken. `keep` gets the agent before that is asked:
    it may hang, and then it takes another thread to close it.

    AuthenticationException where none is, PasswordRequiredException where one could not be tried for want of its
    passphrase.
    """
    keys = _Keys(login, keep)
    try:
        for key in keys.offers():
            try:
                if not transport.auth_publickey(login.user, key):
                    return
            except AuthenticationException:
                if not transport.is_active():  # it has had enough of them
                    break
    finally:
        keys.close()
    if keys.locked:
        wrong = "is not opened by its passphrase" if login.passphrase else "has a passphrase"
        raise PasswordRequiredException(f"the key {keys.locked[0]} {wrong}")
    raise AuthenticationException("no key was accepted")


class Agent(AgentSSH):
    """Who holds keys at SSH_AUTH_SOCK. To close it, from any thread, ends a question that hangs.

    paramiko's own leaves its socket open where nobody is there, and where it gets no answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.socket = socket.socket(socket.AF_UNIX)

    def ask(self) -> dict[bytes, PKey]:
        """What it holds, by its public part; OSError or SSHException where it does not say."""
        self.socket.connect(os.environ.get("SSH_AUTH_SOCK", ""))
        self._connect(self.socket)  # type: ignore[attr-defined]  # it is not in the stubs
        return {key.asbytes(): key for key in self.get_keys()}

    def close(self) -> None:
        with suppress(OSError):  # it was not connected
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class _Keys:
    """The keys of a login. An agent is asked only when the files do not serve: it may be slow, or hang."""

    def __init__(self, login: Login, keep: Callable[[Agent], object]) -> None:
        self.login = login
        self.keep = keep
        self.locked: list[Path] = []
        self.agents: list[Agent] = []

    def offers(self) -> Iterator[PKey]:
        for path in self.login.keys:
            try:
                yield _load(path, self.login.passphrase)
            except (SSHException, OSError):
                held = self.held.pop(_public(path), None)
                if held:
                    yield held
                elif path.is_file() and _is_private(path):
                    self.locked.append(path)
        if not self.login.only_keys:
            yield from self.held.values()

    @cached_property
    def held(self) -> dict[bytes, PKey]:
        """What an agent holds, by its public part."""
        agent = Agent()
        self.agents.append(agent)
        self.keep(agent)
        try:
            return agent.ask()
        except (SSHException, OSError):  # none, or one that speaks another protocol
            return {}

    def close(self) -> None:
        for agent in self.agents:
            agent.close()


def _load(path: Path, passphrase: str | None) -> PKey:
    """A private key with the certificate beside it; SSHException where it is locked or of no type that serves."""
    locked: SSHException | None = None
    for kind in (Ed25519Key, ECDSAKey, RSAKey):
        try:
            key: PKey = kind.from_private_key_file(str(path), passphrase)
        except PasswordRequiredException as error:
            locked = error
        except (SSHException, ValueError, IndexError, TypeError):  # of another type, or damaged
            continue
        else:
            certificate = path.with_name(f"{path.name}-cert.pub")
            if certificate.is_file():
                key.load_certificate(str(certificate))
            return key
    raise locked or SSHException(f"{path} is no key that opens")


def _public(path: Path) -> bytes:
    """The public part of a key file, from the .pub beside it; nothing where there is none."""
    file = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
    try:
        return base64.b64decode(file.read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError, UnicodeDecodeError, binascii.Error):
        return b""


def _is_private(path: Path) -> bool:
    return "PRIVATE KEY" in path.read_text(encoding="utf-8", errors="replace")[:100]
