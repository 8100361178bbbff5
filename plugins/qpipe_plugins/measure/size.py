"""What a build weighs."""

from __future__ import annotations

import qpipe


def size(deployed: qpipe.Deployed) -> list[qpipe.Measurement]:
    """Bytes of all files that travel to the device for this build, in MB (10^6 bytes)."""
    return [qpipe.Measurement("size_mb", deployed.stored.size / 1e6, "MB", deployed=deployed.name)]
