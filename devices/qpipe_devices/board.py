"""A device behind a transport that can also be looked at, and made ready, before an agent runs there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qpipe.types import Finding
from qpipe_devices.link import Link
from qpipe_devices.setup import provision, readiness


class Board(Link):
    """What the drivers give."""

    def check(self) -> Iterator[Finding]:
        """How ready it is, line by line, whatever it lacks."""
        return readiness.check(self)

    def setup(
        self, *, wheels: Path | None, runtime: str | None, system_runtime: bool
    ) -> Iterator[Finding]:
        """Bring numpy and a runtime there, unless it has them, and prove them."""
        return provision.setup(self, wheels=wheels, runtime=runtime, system_runtime=system_runtime)
