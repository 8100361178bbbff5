"""The SSH connection to a board, by paramiko: host keys checked, every failure a sentence about the device."""

from __future__ import annotations

import getpass
import logging
import shlex
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    PasswordRequiredException,
    SSHException,
)

from qpipe.errors import DeviceError
from qpipe.types import Process, Progress
from qpipe_devices import known_hosts

PART = 1 << 18  # bytes a write
STALLED_S = 60.0  # a transfer that moves nothing for so long has failed
FILE_FOLLOWS = b"qpipe-file-follows\n"

# paramiko logs what it also raises, and without this line Python prints it
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshTransport:
    """Processes and files of a board over one SSH connection; paths are relative to its home folder."""

    def __init__(
        self, name: str, host: str, user: str | None, port: int | None, key: Path | None, known: Path, timeout: float
    ) -> None:
        self.name, self.known, self.timeout = name, known, timeout
        config = _ssh_config(host)
        self.host, self.port = config.get("hostname", host), port or int(config.get("port", 22))
        self.user = user or config.get("user", getpass.getuser())
        self.keys = [str(key.expanduser())] if key else list(config.get("identityfile", []))
        self.proxied = next((option for option in ("proxyjump", "proxycommand") if option in config), None)
        self.client: paramiko.SSHClient | None = None
        self.connecting = threading.Lock()

    def start(self, argv: Sequence[str]) -> Process:
        with self._mapped(f"'{argv[0]}' was not started"):
            channel = self._transport().open_session(timeout=self.timeout)
            channel.settimeout(None)
            channel.exec_command(shlex.join(argv))
            return SshProcess(channel)

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Through `cat` rather than SFTP: as fast, it says why it fails, and small SSH servers have it too."""
        process = cast("SshProcess", self.start(["sh", "-c", 'cat > "$1"', "sh", path]))
        process.channel.settimeout(STALLED_S)
        done, total = 0, source.stat().st_size
        try:
            with source.open("rb") as file:
                while part := file.read(PART):
                    process.channel.sendall(part)
                    done += len(part)
                    progress(done, total, "B")
            process.channel.shutdown_write()
            status = process.wait(STALLED_S)
        except (OSError, EOFError, SSHException) as error:  # closed by its end, or TimeoutError
            raise self._transfer_error(source.name, process, str(error) or "it stalled") from error
        if status != 0:
            raise self._transfer_error(source.name, process, f"status {status}")
        process.kill()

    def get(self, path: str, target: Path) -> None:
        follows = FILE_FOLLOWS.decode().strip()
        process = cast("SshProcess", self.start(["sh", "-c", f'echo; echo {follows}; cat "$1"', "sh", path]))
        process.channel.settimeout(STALLED_S)
        try:
            for line in iter(process.stdout.readline, b""):
                if line == FILE_FOLLOWS:
                    break
            with target.open("wb") as file:
                while part := process.stdout.read(PART):
                    file.write(part)
            status = process.wait(STALLED_S)
        except (OSError, EOFError, SSHException) as error:
            raise self._transfer_error(path, process, str(error) or "it stalled") from error
        if status != 0:
            raise self._transfer_error(path, process, f"status {status}")
        process.kill()

    def close(self) -> None:
        client, self.client = self.client, None
        if client:
            client.close()

    def _transport(self) -> paramiko.Transport:
        with self.connecting:
            transport = self.client.get_transport() if self.client else None
            if transport is None or not transport.is_active():
                self.close()
                transport = self._connect()
            return transport

    def _connect(self) -> paramiko.Transport:
        if self.proxied:
            raise DeviceError(
                f"{self.name}: ~/.ssh/config asks for {self.proxied} to {self.host}; qpipe connects directly: "
                "give host an address that this machine reaches"
            )
        client = paramiko.SSHClient()
        client.get_host_keys().update(known_hosts.read(self.known))
        client.set_missing_host_key_policy(_Refuse())
        with self._mapped("the SSH connection failed"):
            keys = cast("str", self.keys or None)  # paramiko takes a list as well, its stubs do not
            sock = socket.create_connection((self.host, self.port), self.timeout)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each request waits 40 ms for an ACK
                client.connect(
                    self.host, self.port, self.user, key_filename=keys, sock=sock, timeout=self.timeout,
                    banner_timeout=self.timeout, auth_timeout=self.timeout, channel_timeout=self.timeout,
                    allow_agent=not self.keys, look_for_keys=not self.keys,
                )  # fmt: skip
            except BaseException:
                client.close()
                sock.close()
                raise
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(15)
        self.client = client
        return transport

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        """Whatever paramiko and sockets raise, as a DeviceError that says what to do."""
        at = f"{self.host}:{self.port}" if self.port != 22 else self.host
        scan = f"-p {self.port} {self.host}" if self.port != 22 else self.host
        try:
            yield
        except _UnknownHostError as error:
            fix = f"add it with: ssh-keyscan {scan} >> {self.known}"
            raise DeviceError(f"{self.name}: host key of {self.host} is not known; {fix}") from error
        except BadHostKeyException as error:
            entry = f"'[{self.host}]:{self.port}'" if self.port != 22 else self.host
            raise DeviceError(
                f"{self.name}: host key of {self.host} is not the one in {self.known}; "
                f"if the board was set up anew: ssh-keygen -f {self.known} -R {entry}"
            ) from error
        except PasswordRequiredException as error:
            raise DeviceError(f"{self.name}: the key has a passphrase; add it to an agent with: ssh-add") from error
        except AuthenticationException as error:
            tried = ", ".join(self.keys) or "the keys of ~/.ssh and of an agent"
            fix = f"add one with: ssh-copy-id -p {self.port} {self.user}@{self.host}"
            raise DeviceError(f"{self.name}: {self.user}@{at} accepts none of {tried}; {fix}") from error
        except ChannelException as error:
            raise DeviceError(f"{self.name}: {what}: {error.text}; raise MaxSessions in its sshd_config") from error
        except socket.gaierror as error:
            raise DeviceError(f"{self.name}: there is no host '{self.host}'; give its address") from error
        except TimeoutError as error:
            reason = f"{at} gave no answer within {self.timeout:g} s"
            raise DeviceError(f"{self.name}: {reason}; is it on, and is that its address?") from error
        except FileNotFoundError as error:
            raise DeviceError(f"{self.name}: there is no key file {error.filename}; correct key") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            fix = "is it on, and is sshd running?"
            raise DeviceError(f"{self.name}: {at} cannot be reached: {reason}; {fix}") from error
        except (SSHException, EOFError, ValueError) as error:
            reason = str(error) or "the other side closed it"
            fix = f"try: ssh -p {self.port} {self.user}@{self.host}"
            raise DeviceError(f"{self.name}: {what}: {reason}; {fix}") from error

    def _transfer_error(self, file: str, process: SshProcess, reason: str) -> DeviceError:
        process.channel.settimeout(1)
        try:
            said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            said = []
        process.kill()
        return DeviceError(f"{self.name}: {file} was not transferred: {said[-1] if said else reason}")


class SshProcess:
    """A process on a board: a channel. Its end on the board is its stdin's end, which the agent obeys."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.channel = channel
        self.stdin = cast("IO[bytes]", channel.makefile_stdin("wb", -1))
        self.stdout = cast("IO[bytes]", channel.makefile("rb", -1))
        self.stderr = cast("IO[bytes]", channel.makefile_stderr("rb", -1))

    def wait(self, timeout: float) -> int:
        """Its exit status; -1 where a signal or the end of the connection took it."""
        if not self.channel.status_event.wait(timeout):
            raise TimeoutError
        return self.channel.recv_exit_status()

    def kill(self) -> None:
        self.channel.close()


class _UnknownHostError(SSHException):
    """The host key is in no known_hosts."""


class _Refuse(paramiko.MissingHostKeyPolicy):
    """Accepts no host key that is not known."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        raise _UnknownHostError(hostname)


def _ssh_config(host: str) -> paramiko.SSHConfigDict:
    path = Path("~/.ssh/config").expanduser()
    if not path.is_file():
        return paramiko.SSHConfigDict()
    return paramiko.SSHConfig.from_path(str(path)).lookup(host)
