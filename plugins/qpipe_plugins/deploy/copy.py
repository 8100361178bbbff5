"""Bring a build to a device as it is."""

from __future__ import annotations

import qpipe


def copy(build: qpipe.Build, device: qpipe.Device, progress: qpipe.Progress) -> qpipe.Stored:
    """Copy the build's files to the device, each under its digest; what is there already is not sent again."""
    return device.store(build.folder, progress)
