"""Whatever paramiko and sockets raise, as a DeviceError that says whose fault it is and what to do."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from paramiko.ssh_exception import (
    AuthenticationException,
    ChannelException,
    ConfigParseError,
    CouldNotCanonicalize,
    PasswordRequiredException,
    SSHException,
)

from qpipe.errors import DeviceError, Failure
from qpipe_devices.ssh.login import Login

# paramiko logs what it also raises, and without this line Python prints it
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@contextmanager
def configured(name: str) -> Iterator[None]:
    """Around whatever reads ssh_config."""
    try:
        yield
    except (ConfigParseError, CouldNotCanonicalize, ValueError) as error:
        said = str(error) or "a host name has no canonical form"
        fix = "" if ";" in said else "; correct ~/.ssh/config"
        raise DeviceError(f"{name}: {said}{fix}", failure="configuration") from error


@contextmanager
def mapped(where: str, login: Login, what: str, *, connected: bool = False) -> Iterator[None]:
    """Around whatever waits for a host; `what` failed, on the way to it unless it was connected already."""
    lost: Failure = "died" if connected else "unreachable"
    try:
        yield
    except PasswordRequiredException as error:
        fix = "add it to an agent with: ssh-add, or give passphrase: ${env:NAME} in the inventory"
        raise DeviceError(f"{where}: {error}; {fix}", failure="configuration") from error
    except AuthenticationException as error:
        tried = ", ".join(map(str, login.keys)) or "the keys of ~/.ssh"
        also = "" if login.only_keys else " and of an agent"
        fix = f"add one with: ssh-copy-id -p {login.port} {login.user}@{login.host}"
        reason = f"{login.user}@{login.at} accepts none of {tried}{also}"
        raise DeviceError(f"{where}: {reason}; {fix}", failure="configuration") from error
    except ChannelException as error:
        fix = (
            f"raise MaxSessions in the sshd_config of {login.host}"
            if connected
            else "is that its address?"
        )
        raise DeviceError(f"{where}: {what}: {error.text.lower()}; {fix}", failure=lost) from error
    except socket.gaierror as error:
        failure: Failure = "unreachable" if error.errno == socket.EAI_AGAIN else "configuration"
        reason = f"there is no host '{login.host}'; give its address"
        raise DeviceError(f"{where}: {reason}", failure=failure) from error
    except TimeoutError as error:
        reason = f"{login.at} gave no answer within {login.timeout:g} s"
        fix = (
            "is the line cut, or the board frozen?"
            if connected
            else "is it on, and is that its address?"
        )
        raise DeviceError(
            f"{where}: {reason}; {fix}", failure="timeout" if connected else lost
        ) from error
    except OSError as error:
        reason = f"{login.at} cannot be reached: {(error.strerror or str(error)).lower()}"
        raise DeviceError(
            f"{where}: {reason}; is it on, and is sshd running?", failure=lost
        ) from error
    except (SSHException, EOFError, ValueError) as error:
        reason = str(error) or "the other side closed it"
        fix = f"try: ssh -p {login.port} {login.user}@{login.host}"
        raise DeviceError(f"{where}: {what}: {reason}; {fix}", failure=lost) from error
