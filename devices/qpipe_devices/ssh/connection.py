"""One SSH connection: reaching the host, checking its key and logging in, within one deadline."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from paramiko import Channel, Transport
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

from qpipe.errors import DeviceError
from qpipe_devices.ssh import known_hosts, user_keys
from qpipe_devices.ssh.deadlines import call_within
from qpipe_devices.ssh.error_mapping import mapped_errors
from qpipe_devices.ssh.known_hosts import HostKey, KnownKeys
from qpipe_devices.ssh.login import Login

KEEPALIVE_S = 15
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")  # the algorithms of a key of type ssh-rsa
# encryption and integrity in one pass, by the AES instructions of the processor
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
LARGEST_PACKET = 1 << 20  # bytes; OpenSSH's own limit is a quarter of it
ANY_LOCAL_PORT = ("127.0.0.1", 0)


class Closable(Protocol):
    """Anything that a connection opens."""

    def close(self) -> object: ...


T = TypeVar("T")
ClosableT = TypeVar("ClosableT", bound=Closable)


class Connection:
    """An SSH connection to a device.

    It has all that it takes: sockets, jump hosts, a ProxyCommand, an agent that holds keys; closing
    it closes them all. Every failure is a DeviceError. The system gives up a dead connection after
    `silence_s` seconds. What is no device of the inventory is not pinned there.
    """

    def __init__(
        self, device_name: str, login: Login, silence_s: float = 30, *, is_device: bool = True
    ) -> None:
        self.device_name = device_name
        self.login = login
        self.silence_s = silence_s
        self.is_device = is_device
        self.opened: list[Closable] = []

    def open(self) -> Transport:
        """Connect, check the host's key and log in."""
        transport = self._call_within_timeout(lambda: self._log_in(self.login))
        transport.set_keepalive(KEEPALIVE_S)  # a lost connection shows only when one writes
        return transport

    def host_key(self, known_keys: tuple[HostKey, ...] = ()) -> HostKey:
        """Return the key that the host shows, of a known type where it has one.

        Log in to jump hosts only.
        """
        return self._call_within_timeout(
            lambda: _host_key(self._exchange_keys(self.login, known_keys))
        )

    def close(self) -> None:
        """Close everything that was opened, the last first; it may be called again."""
        while self.opened:
            with suppress(OSError, EOFError):
                self.opened.pop().close()

    def _call_within_timeout(self, call: Callable[[], T]) -> T:
        try:
            with mapped_errors(self.device_name, self.login):
                return call_within(self.login.timeout, call, cancel=self.close)
        except BaseException:
            self.close()
            raise

    def _log_in(self, login: Login) -> Transport:
        known_keys = known_hosts.look_up(login.known_hosts, login.known_as)
        transport = self._exchange_keys(login, known_keys.trusted)
        self._check_host_key(login, known_keys, _host_key(transport))
        with mapped_errors(self._where(login), login):
            user_keys.log_in(transport, login, register_agent=self._register)
        return transport

    def _exchange_keys(self, login: Login, known_keys: tuple[HostKey, ...]) -> Transport:
        """Return an encrypted connection, without a login.

        The types of the known keys are proposed first.
        """
        sock = self._open_socket(login)
        with mapped_errors(self._where(login), login):
            transport = self._register(Transport(sock, packetizer_class=_BoundedPacketizer))
            # longer than the deadline of the whole connection, which has the better message
            step_timeout = 2 * login.timeout
            transport.banner_timeout = step_timeout
            transport.auth_timeout = step_timeout
            transport.channel_timeout = step_timeout
            options = transport.get_security_options()
            options.key_types = _preferred_first(_algorithms(known_keys), options.key_types)
            options.ciphers = _preferred_first(FAST_CIPHERS, options.ciphers)
            transport.start_client()
        return transport

    def _open_socket(self, login: Login) -> socket.socket | Channel:
        if login.command:
            return self._register(self._register(_ProxyCommand(login.command)).socket)
        if login.jump_host:
            return self._open_jump_channel(login, login.jump_host)
        with mapped_errors(self._where(login), login):
            address = (login.host, login.port)
            sock = self._register(socket.create_connection(address, login.timeout))
            _set_socket_options(sock, self.silence_s)
            return sock

    def _open_jump_channel(self, login: Login, jump_host: Login) -> Channel:
        transport = self._log_in(jump_host)
        action = f"jump host {jump_host.host} does not reach {login.address}"
        with mapped_errors(self._where(login), login, action=action):
            channel = transport.open_channel(
                "direct-tcpip", (login.host, login.port), ANY_LOCAL_PORT, timeout=login.timeout
            )
            return self._register(channel)

    def _check_host_key(self, login: Login, known_keys: KnownKeys, key: HostKey) -> None:
        """Raise DeviceError where the key that the host shows is not trusted."""
        if key in known_keys.trusted:
            return
        file = login.known_hosts[0] if login.known_hosts else "known_hosts"
        if key in known_keys.revoked:
            problem = "is revoked"
            fix = f"give the host a new key, or remove the line with @revoked from {file}"
        elif known_keys.trusted:
            problem = f"is not the one in {file}"
            fix = f"if the board was set up anew: qpipe devices rekey {self.device_name}"
        else:
            problem = "is not known"
            fix = f"compare it and pin it with: qpipe devices rekey {self.device_name}"
        host = login.host
        if self._is_jump_host(login):
            host = f"jump host {login.host}"
        if (self._is_jump_host(login) or not self.is_device) and key not in known_keys.revoked:
            fix = f"log in to it by hand once: ssh -p {login.port} {login.user}@{login.host}"
        raise DeviceError(
            f"{self.device_name}: host key of {host} {problem} ({key}); {fix}",
            failure="configuration",
        )

    def _where(self, login: Login) -> str:
        """Return the beginning of messages about a login."""
        if self._is_jump_host(login):
            return f"{self.device_name}: jump host {login.host}"
        return self.device_name

    def _is_jump_host(self, login: Login) -> bool:
        return login is not self.login

    def _register(self, closable: ClosableT) -> ClosableT:
        """Have it closed with the connection; return it."""
        self.opened.append(closable)
        return closable


class _BoundedPacketizer(Packetizer):
    """Takes no memory for a packet that no server sends; its size comes from anybody."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if n > LARGEST_PACKET:
            raise SSHException(f"the host sends a packet of {n} bytes")
        return super().read_all(n, check_rekey)


class _ProxyCommand:
    """A process whose stdin and stdout are the connection.

    It has a real socket: paramiko's own ProxyCommand loops for ever when the process ends.
    """

    def __init__(self, command: str) -> None:
        self.socket, process_socket = socket.socketpair()
        with process_socket:
            # by a shell and exec, as ssh does; in a session of its own, so that it gets no Ctrl-C
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=process_socket.fileno(),
                stdout=process_socket.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def _host_key(transport: Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _algorithms(keys: Iterable[HostKey]) -> list[str]:
    """Return the signature algorithms of host keys."""
    algorithms: list[str] = []
    for key in keys:
        if key.kind == "ssh-rsa":
            algorithms += RSA_SIGNATURES
        else:
            algorithms.append(key.kind)
    return algorithms


def _preferred_first(preferred: Sequence[str], supported: Sequence[str]) -> tuple[str, ...]:
    """Return what is supported, the preferred first."""
    supported_preferred = [name for name in preferred if name in supported]
    return tuple(dict.fromkeys([*supported_preferred, *supported]))


def _set_socket_options(sock: socket.socket, silence_s: float) -> None:
    """Send small packets at once (delaying them costs 40 ms a request), and detect a dead peer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence_s * 1000))
