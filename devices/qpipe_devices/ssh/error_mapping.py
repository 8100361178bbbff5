"""Exceptions of paramiko and of sockets as DeviceErrors that say what failed and what to do."""

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

CONNECTING = "the SSH connection failed"

# paramiko also logs what it raises; without a handler Python would print those lines
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@contextmanager
def mapped_config_errors(device_name: str) -> Iterator[None]:
    """Map the exceptions of code that reads ssh_config."""
    try:
        yield
    except (ConfigParseError, CouldNotCanonicalize, ValueError) as error:
        reason = str(error) or "a host name has no canonical form"
        if ";" not in reason:
            reason += "; correct ~/.ssh/config"
        raise DeviceError(f"{device_name}: {reason}", failure="configuration") from error


@contextmanager
def mapped_errors(
    where: str, login: Login, *, action: str = CONNECTING, connected: bool = False
) -> Iterator[None]:
    """Map the exceptions of code that waits for a host.

    `where` begins each message, and `action` says what failed. A failure is that of a lost
    connection where there was one (`connected`), else that of a host that cannot be reached.
    """
    try:
        yield
    except Exception as error:
        failure, message = _describe(error, login, action=action, connected=connected)
        if failure is None:
            raise
        raise DeviceError(f"{where}: {message}", failure=failure) from error


def _describe(
    error: Exception, login: Login, *, action: str, connected: bool
) -> tuple[Failure | None, str]:
    """Return the type of failure and the message of an exception; None where it is not mapped."""
    failure: Failure = "died" if connected else "unreachable"
    if isinstance(error, PasswordRequiredException):
        fix = "add it to an agent with: ssh-add, or give passphrase: ${env:NAME} in the inventory"
        return "configuration", f"{error}; {fix}"
    if isinstance(error, AuthenticationException):
        return "configuration", _describe_refused_keys(login)
    if isinstance(error, ChannelException):
        return failure, f"{action}: {error.text.lower()}; {_channel_fix(login, connected)}"
    if isinstance(error, socket.gaierror):
        if error.errno != socket.EAI_AGAIN:
            failure = "configuration"
        return failure, f"there is no host '{login.host}'; give its address"
    if isinstance(error, TimeoutError):
        reason = f"{login.address} gave no answer within {login.timeout:g} s"
        if connected:
            return "timeout", f"{reason}; is the line cut, or the board frozen?"
        return failure, f"{reason}; is it on, and is that its address?"
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        fix = "is it on, and is sshd running?"
        return failure, f"{login.address} cannot be reached: {reason}; {fix}"
    if isinstance(error, SSHException | EOFError | ValueError):
        reason = str(error) or "the host closed it"
        return failure, f"{action}: {reason}; try: ssh -p {login.port} {login.user}@{login.host}"
    return None, ""


def _describe_refused_keys(login: Login) -> str:
    keys = ", ".join(str(path) for path in login.keys) or "the keys of ~/.ssh"
    if not login.only_keys:
        keys += " and of an agent"
    if login.missing_keys:
        missing = ", ".join(str(path) for path in login.missing_keys)
        keys += f" (ssh_config also names {missing}, which is not there)"
    fix = f"add one with: ssh-copy-id -p {login.port} {login.user}@{login.host}"
    return f"{login.user}@{login.address} accepts none of {keys}; {fix}"


def _channel_fix(login: Login, connected: bool) -> str:
    if connected:
        return f"raise MaxSessions in the sshd_config of {login.host}"
    return "is that its address?"
