"""Ways to switch a device's current: a command of the user's, a power socket on the network."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from qpipe.amounts import Seconds
from qpipe.errors import DeviceError
from qpipe.types import Power

LONGEST = 300  # characters of what a command or a socket said


def command(name: str, *, off: str, on: str, timeout_s: Seconds = 60, boot_s: Seconds = 180) -> Power:
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
    `password` log in by HTTP Basic; give what is secret as ${env:NAME}. `boot_s` after `on` the device answers, at
    most.
    """
    return Socket(name, off, on, (user, password) if user else None, timeout_s, boot_s)


class Command:
    """Two lines for the shell."""

    def __init__(self, name: str, off: str, on: str, timeout_s: float, boot_s: float) -> None:
        self.name, self.lines, self.timeout_s, self.boot_s = name, {"off": off, "on": on}, timeout_s, boot_s

    def off(self) -> None:
        self._run("off")

    def on(self) -> None:
        self._run("on")

    def _run(self, which: str) -> None:
        with tempfile.TemporaryFile() as output:  # no pipe: what it leaves running may hold that open
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.lines[which]], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                status = process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise _failed(self.name, which, f"did not end within {self.timeout_s:g} s") from None
            output.seek(0)
            said = output.read()
        if status:
            last = said.decode("utf-8", "replace").strip().rpartition("\n")[2][:LONGEST] or "it said nothing"
            raise _failed(self.name, which, f"ended with status {status}: {last}")


class Socket:
    """Two addresses; nothing of them is ever told but the machine: there may be a password in the rest."""

    def __init__(
        self, name: str, off: str, on: str, login: tuple[str, str] | None, timeout_s: float, boot_s: float
    ) -> None:
        self.name, self.addresses, self.login = name, {"off": off, "on": on}, login
        self.timeout_s, self.boot_s = timeout_s, boot_s

    def off(self) -> None:
        self._get("off")

    def on(self) -> None:
        self._get("on")

    def _get(self, which: str) -> None:
        address = self.addresses[which]
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _failed(self.name, which, "is no address; give http://HOST/...")
        request = urllib.request.Request(address)  # noqa: S310  (http or https, looked at above)
        if self.login:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(self.login).encode()).decode())
        # it is in the lab: no proxy is on the way there
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                answer.read(LONGEST)
        except urllib.error.HTTPError as error:
            error.close()
            raise _failed(
                self.name, which, f"by {parts.hostname} was answered with {error.code} {error.reason}"
            ) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise _failed(self.name, which, f"by {parts.hostname} failed: {reason}") from None


def _failed(name: str, which: str, reason: str) -> DeviceError:
    fix = "try it with: qpipe devices power"
    return DeviceError(f"{name}: power '{which}' {reason}; {fix} {name} {which}", failure="configuration")
