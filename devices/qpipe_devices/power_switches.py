"""Ways to switch a device's current: a command of the user's, a power socket on the network."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from typing import IO

from qpipe.errors import DeviceError
from qpipe.stages.bounds import Seconds
from qpipe.types import Power

LONGEST = 300  # characters of what a command or a socket said


def command(
    name: str, *, off: str, on: str, timeout_s: Seconds = 60, boot_s: Seconds = 180
) -> Power:
    """Shell commands on this machine that switch the device's current, by /bin/sh.

    Each ends with status 0 within `timeout_s`, or has failed. `boot_s` after `on` the device answers, at most.
    """
    return Command(name, off, on, timeout_s, boot_s)


def socket(
    name: str,
    *,
    off: str,
    on: str,
    user: str | None = None,
    password: str = "",
    timeout_s: Seconds = 15,
    boot_s: Seconds = 180,
) -> Power:
    """A power socket on the network that is switched by HTTP, as those of Shelly and Tasmota are: two addresses to GET.

    As http://10.0.0.5/rpc/Switch.Set?id=0&on=false (Shelly), http://10.0.0.5/cm?cmnd=Power%20off (Tasmota). `user` and
    `password` log in by HTTP Digest or Basic, whichever the socket asks for (a Shelly's user is admin); give what is
    secret as ${env:NAME}. `boot_s` after `on` the device answers, at most.
    """
    return Socket(name, off, on, (user, password) if user else None, timeout_s, boot_s)


class Command:
    """Two lines for the shell."""

    def __init__(self, name: str, off: str, on: str, timeout_s: float, boot_s: float) -> None:
        self.name = name
        self.lines = {"off": off, "on": on}
        self.timeout_s = timeout_s
        self.boot_s = boot_s

    def off(self) -> None:
        self._run("off")

    def on(self) -> None:
        self._run("on")

    def _run(self, which: str) -> None:
        with (
            tempfile.TemporaryFile() as output
        ):  # no pipe: what it leaves running may hold that open
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.lines[which]],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                status = process.wait(self.timeout_s)
            except (
                BaseException
            ) as error:  # an interrupt, too: what is late with `off` must not come after `on`
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise _failed(
                    self.name, which, f"did not end within {self.timeout_s:g} s"
                ) from None
            output.seek(0)
            said = output.read()
        if status:
            last = (
                said.decode("utf-8", "replace").strip().rpartition("\n")[2][:LONGEST]
                or "it said nothing"
            )
            raise _failed(self.name, which, f"ended with status {status}: {last}")


class Socket:
    """Two addresses; nothing of them is ever told but the machine: there may be a password in the rest."""

    def __init__(
        self,
        name: str,
        off: str,
        on: str,
        login: tuple[str, str] | None,
        timeout_s: float,
        boot_s: float,
    ) -> None:
        self.name = name
        self.addresses = {"off": off, "on": on}
        self.login = login
        self.timeout_s = timeout_s
        self.boot_s = boot_s

    def off(self) -> None:
        self._get("off")

    def on(self) -> None:
        self._get("on")

    def _get(self, which: str) -> None:
        address = self.addresses[which]
        host = self._host(which)
        try:
            with self._opener(address).open(address, timeout=self.timeout_s) as answer:
                answer.read(LONGEST)
        except urllib.error.HTTPError as error:
            error.close()
            raise _failed(
                self.name, which, f"by {host} was answered with {error.code} {error.reason}"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
            raise _failed(self.name, which, f"by {host} failed: {reason}") from None

    def _host(self, which: str) -> str:
        """The machine that an address is of."""
        try:
            parts = urllib.parse.urlsplit(self.addresses[which])
            if (
                parts.scheme in ("http", "https")
                and parts.hostname
                and not parts.username
                and parts.port != 0
            ):
                return parts.hostname
        except ValueError:
            pass
        raise _failed(
            self.name,
            which,
            "is no address; give http://HOST/..., and user and password as options",
        )

    def _opener(self, address: str) -> urllib.request.OpenerDirector:
        """It is in the lab: no proxy is on the way there."""
        known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if self.login:
            known.add_password(None, address, *self.login)
        logins = _Digest(known), urllib.request.HTTPBasicAuthHandler(known)
        return urllib.request.build_opener(urllib.request.ProxyHandler({}), *logins)


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """With SHA-256 as well, by which a Shelly asks (RFC 7616)."""

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
        with fp:  # which nobody else closes
            return super().http_error_401(req, fp, code, msg, headers)


def _failed(name: str, which: str, reason: str) -> DeviceError:
    fix = "try it with: qpipe devices power"
    return DeviceError(
        f"{name}: power '{which}' {reason}; {fix} {name} {which}", failure="configuration"
    )
