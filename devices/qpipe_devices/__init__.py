"""Drivers that connect qpipe to devices, and the agent that runs there.

Other packages may use the drivers `local`, `null` and `ssh`, the power switches `command` and
`http`, and these modules: `board` and `link`, a device over any transport, for drivers of one's
own; `null`, a device for tests; and `agent`, whose PROTOCOL.md specifies the runners of runtimes.
"""

from __future__ import annotations

import qpipe
from qpipe_devices.local import local
from qpipe_devices.null import null
from qpipe_devices.power_switches import command, http
from qpipe_devices.ssh.driver import enrol, ssh


@qpipe.hookimpl
def register_devices(register: qpipe.RegisterDevice) -> None:
    """Register the built-in kinds of devices."""
    register(local)
    register(null)
    register(ssh, enrol=enrol)


@qpipe.hookimpl
def register_power(register: qpipe.RegisterPower) -> None:
    """Register the built-in power switches."""
    register(command)
    register(http)
