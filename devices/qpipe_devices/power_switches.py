"""Switches for the power of a device: shell commands, and power sockets with HTTP."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from typing import IO, Literal

from qpipe.errors import DeviceError
from qpipe.stages.bounds import Seconds
from qpipe.types import Power

LONGEST_OUTPUT = 300  # characters of a command's output, bytes of a response

Action = Literal["off", "on"]


def command(
    name: str, *, off: str, on: str, timeout_s: Seconds = 60, boot_s: Seconds = 180
) -> Power:
    """Shell commands on this machine that switch the device's power, run by /bin/sh.

    A command has failed unless it ends with status 0 within `timeout_s`. The device must answer
    within `boot_s` after `on`.
    """
    return CommandSwitch(name, off=off, on=on, timeout_s=timeout_s, boot_s=boot_s)


def http(
    name: str,
    *,
    off: str,
    on: str,
    user: str | None = None,
    password: str = "",
    timeout_s: Seconds = 15,
    boot_s: Seconds = 180,
) -> Power:
    """A power socket that is switched by HTTP, such as Shelly's and Tasmota's: two URLs to GET.

    For example http://10.0.0.5/rpc/Switch.Set?id=0&on=false (Shelly), or
    http://10.0.0.5/cm?cmnd=Power%20off (Tasmota). `user` and `password` log in by HTTP Digest or
    Basic, as the socket requests (the user of a Shelly is admin); write secrets as ${env:NAME}.
    The device must answer within `boot_s` after `on`.
    """
    credentials = (user, password) if user else None
    return HttpSwitch(
        name, off=off, on=on, credentials=credentials, timeout_s=timeout_s, boot_s=boot_s
    )


class CommandSwitch:
    """A power switch by two shell commands."""

    def __init__(
        self, device_name: str, *, off: str, on: str, timeout_s: float, boot_s: float
    ) -> None:
        self.device_name = device_name
        self.commands: dict[Action, str] = {"off": off, "on": on}
        self.timeout_s = timeout_s
        self.boot_s = boot_s

    def off(self) -> None:
        self._run("off")

    def on(self) -> None:
        self._run("on")

    def _run(self, action: Action) -> None:
        # a file, not a pipe, which background processes of the command may keep open
        with tempfile.TemporaryFile() as output_file:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.commands[action]],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=output_file,
            )
            status = self._wait(process, action)
            output_file.seek(0)
            output = output_file.read().decode("utf-8", "replace")
        if status != 0:
            last_line = output.strip().rpartition("\n")[2][:LONGEST_OUTPUT]
            raise _power_error(
                self.device_name, action, f"ended with status {status}: {last_line or 'no output'}"
            )

    def _wait(self, process: subprocess.Popen[bytes], action: Action) -> int:
        """Return the exit status; end the command where it takes too long or is interrupted.

        It must not go on: a late `off` would come after the next `on`.
        """
        try:
            return process.wait(self.timeout_s)
        except subprocess.TimeoutExpired:
            raise _power_error(
                self.device_name, action, f"did not end within {self.timeout_s:g} s"
            ) from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class HttpSwitch:
    """A power switch by two URLs.

    Messages name only the host of a URL: the rest may contain a password.
    """

    def __init__(
        self,
        device_name: str,
        *,
        off: str,
        on: str,
        credentials: tuple[str, str] | None,
        timeout_s: float,
        boot_s: float,
    ) -> None:
        self.device_name = device_name
        self.urls: dict[Action, str] = {"off": off, "on": on}
        self.credentials = credentials
        self.timeout_s = timeout_s
        self.boot_s = boot_s

    def off(self) -> None:
        self._get("off")

    def on(self) -> None:
        self._get("on")

    def _get(self, action: Action) -> None:
        url = self.urls[action]
        host = _host_of(url)
        if host is None:
            raise _power_error(
                self.device_name,
                action,
                "is not an HTTP address; give http://HOST/..., with user and password as options",
            )
        try:
            with self._opener(url).open(url, timeout=self.timeout_s) as response:
                response.read(LONGEST_OUTPUT)
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"by {host} was answered with {error.code} {error.reason}"
            raise _power_error(self.device_name, action, problem) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error).strip()
            problem = f"by {host} failed: {reason or type(error).__name__}"
            raise _power_error(self.device_name, action, problem) from None

    def _opener(self, url: str) -> urllib.request.OpenerDirector:
        """Return an opener that logs in, and uses no proxy: the socket is in the lab's network."""
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if self.credentials:
            passwords.add_password(None, url, *self.credentials)
        return urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            _DigestAuthHandler(passwords),
            urllib.request.HTTPBasicAuthHandler(passwords),
        )


class _DigestAuthHandler(urllib.request.HTTPDigestAuthHandler):
    """HTTP Digest with SHA-256 as well, which a Shelly requires (RFC 7616)."""

    def get_algorithm_impls(
        self, algorithm: str
    ) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        if algorithm != "SHA-256":
            return super().get_algorithm_impls(algorithm)

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        return digest, lambda secret, text: digest(f"{secret}:{text}")

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> IO[bytes] | None:
        with fp:  # urllib leaves it open
            return super().http_error_401(req, fp, code, msg, headers)


def _host_of(url: str) -> str | None:
    """Return the host of an HTTP URL; None where it is not one, or contains a user."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and not parts.username and parts.port != 0
    except ValueError:
        return None
    if not is_valid:
        return None
    return parts.hostname


def _power_error(device_name: str, action: Action, problem: str) -> DeviceError:
    fix = f"try it with: qpipe devices power {device_name} {action}"
    return DeviceError(f"{device_name}: power '{action}' {problem}; {fix}", failure="configuration")
