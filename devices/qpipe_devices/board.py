"""A device behind a transport that can be checked and set up before an agent runs there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup import provision, readiness


class Board(Link):
    """The device that the drivers local and ssh return: a Link with check and setup."""

    def check(self) -> Iterator[Finding]:
        """Yield how ready the device is, one finding at a time, whatever it lacks."""
        return readiness.check(self)

    def setup(
        self, *, wheels: Path | None, runtime: str | None, system_runtime: bool
    ) -> Iterator[Finding]:
        """Install numpy and a runtime on the device, unless it has them, and test them."""
        return provision.set_up(
            self, wheel_folder=wheels, runtime=runtime, system_runtime=system_runtime
        )
