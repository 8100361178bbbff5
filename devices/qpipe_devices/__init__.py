"""Ways to reach a device, and the agent that runs on it."""

from __future__ import annotations

import qpipe
from qpipe_devices.local import local
from qpipe_devices.null import null
from qpipe_devices.power_switches import command, socket
from qpipe_devices.ssh.driver import enrol, ssh


@qpipe.hookimpl
def register_devices(register: qpipe.RegisterDevice) -> None:
    """The built-in ways to reach a device."""
    for driver in (local, null):
        register(driver)
    register(ssh, enrol=enrol)


@qpipe.hookimpl
def register_power(register: qpipe.RegisterPower) -> None:
    """The built-in ways to switch a device off and on."""
    for switch in (command, socket):
        register(switch)
