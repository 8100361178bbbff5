"""Boards on a serial console, as a plugin of qpipe."""

from __future__ import annotations

import qpipe
from qpipe_serial.driver import serial


@qpipe.hookimpl
def register_devices(register: qpipe.RegisterDevice) -> None:
    """Register the driver."""
    register(serial)
