"""One SSH connection: the way to the host, the check of its key, the login; all of it within one deadline."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from paramiko import Channel, Transport

from qpipe.errors import DeviceError
from qpipe_devices.ssh import known_hosts
from qpipe_devices.ssh import user_keys as ssh_keys
from qpipe_devices.ssh.deadlines import within
from qpipe_devices.ssh.error_mapping import mapped
from qpipe_devices.ssh.known_hosts import HostKey
from qpipe_devices.ssh.login import Login

KEEPALIVE_S = 15
RSA = ("rsa-sha2-512", "rsa-sha2-256")  # what a key of type ssh-rsa signs with
FAST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # one pass of the processor's own AES


class Closes(Protocol):
    """Whatever a connection opened."""

    def close(self) -> object: ...


T = TypeVar("T")
Opened = TypeVar("Opened", bound=Closes)


class Connection:
    """An SSH connection of a device, and what leads to it: sockets, jump hosts, a ProxyCommand,
    an agent that holds keys. Closing it closes all.

    Every failure is a DeviceError; `silence_s` is how long the line may be dead before the system gives it up.
    """

    def __init__(self, name: str, login: Login, silence_s: float = 30) -> None:
        self.name = name
        self.login = login
        self.silence_s = silence_s
        self.opened: list[Closes] = []

    def open(self) -> Transport:
        """Connected, the host's key checked, logged in."""
        transport = self._within_time(lambda: self._logged_in(self.login))
        transport.set_keepalive(KEEPALIVE_S)  # writes, without which nobody notices a cut line
        return transport

    def host_key(self, known: tuple[HostKey, ...] = ()) -> HostKey:
        """The key that the host shows, of a type that is known if it has one; only jump hosts are logged in to."""
        return self._within_time(lambda: _key_of(self._greeted(self.login, known)))

    def close(self) -> None:
        while self.opened:
            with suppress(OSError, EOFError):
                self.opened.pop().close()

    def _within_time(self, call: Callable[[], T]) -> T:
        try:
            with mapped(self.name, self.login, "the SSH connection failed"):
                return within(self.login.timeout, call, self.close)
        except BaseException:
            self.close()
            raise

    def _logged_in(self, login: Login) -> Transport:
        known = known_hosts.look_up(login.known_hosts, login.known_as)
        transport = self._greeted(login, known.trusted)
        self._check(login, known, _key_of(transport))
        with mapped(self._where(login), login, "the SSH connection failed"):
            ssh_keys.log_in(transport, login, self._keep)
        return transport

    def _greeted(self, login: Login, known: tuple[HostKey, ...]) -> Transport:
        """A connection whose keys are exchanged; the types of key that are known are asked for first."""
        sock = self._socket(login)
        with mapped(self._where(login), login, "the SSH connection failed"):
            transport = self._keep(Transport(sock))
            # longer than the whole may take: one deadline is enough, and it knows what to say
            transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = (
                2 * login.timeout
            )
            options = transport.get_security_options()
            types = [
                kind for key in known for kind in (RSA if key.kind == "ssh-rsa" else (key.kind,))
            ]
            options.key_types = _first(types, options.key_types)
            options.ciphers = _first(FAST, options.ciphers)
            transport.start_client()
        return transport

    def _socket(self, login: Login) -> socket.socket | Channel:
        if login.command:
            return self._keep(self._keep(_Command(login.command)).socket)
        if login.gate is None:
            with mapped(self._where(login), login, "the SSH connection failed"):
                sock = self._keep(socket.create_connection((login.host, login.port), login.timeout))
                _set_options(sock, self.silence_s)
                return sock
        gate = self._logged_in(login.gate)
        with mapped(
            self._where(login), login, f"jump host {login.gate.host} does not reach {login.at}"
        ):
            place = (login.host, login.port)
            nowhere = ("127.0.0.1", 0)
            return self._keep(
                gate.open_channel("direct-tcpip", place, nowhere, timeout=login.timeout)
            )

    def _check(self, login: Login, known: known_hosts.Known, key: HostKey) -> None:
        if key in known.trusted:
            return
        pins = login.known_hosts[0] if login.known_hosts else "known_hosts"
        if key in known.revoked:
            what = f"is revoked ({key})"
            fix = f"give the host another, or take @revoked out of {pins}"
        elif login is not self.login:
            what = f"is not the one in {pins} ({key})" if known.trusted else f"is not known ({key})"
            fix = f"log in to it by hand once: ssh -p {login.port} {login.user}@{login.host}"
        elif known.trusted:
            what = f"is not the one in {pins} ({key})"
            fix = f"if the board was set up anew: qpipe devices rekey {self.name}"
        else:
            what = f"is not known ({key})"
            fix = f"compare it and pin it with: qpipe devices rekey {self.name}"
        host = login.host if login is self.login else f"jump host {login.host}"
        raise DeviceError(f"{self.name}: host key of {host} {what}; {fix}", failure="configuration")

    def _where(self, login: Login) -> str:
        return self.name if login is self.login else f"{self.name}: jump host {login.host}"

    def _keep(self, opened: Opened) -> Opened:
        self.opened.append(opened)
        return opened


class _Command:
    """A ProxyCommand: a process whose input and output are the connection. Its socket is a real one: paramiko's own
    ProxyCommand turns in circles when the process ends."""

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            # as ssh does; a session of its own, for Ctrl-C is ours
            end = theirs.fileno()
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=end,
                stdout=end,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def _key_of(transport: Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _first(wanted: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    """What is offered, the wanted of them first."""
    chosen = [each for each in dict.fromkeys(wanted) if each in offered]
    return (*chosen, *(each for each in offered if each not in chosen))


def _set_options(sock: socket.socket, silence_s: float) -> None:
    """No waiting for company (40 ms a request), and an end where nobody acknowledges any more."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence_s * 1000))
