"""Copy a build to a device."""

from __future__ import annotations

import qpipe


def copy(build: qpipe.Build, device: qpipe.Device, progress: qpipe.Progress) -> qpipe.Stored:
    """Copy the build's files to the device, each under its digest.

    Files that the device has already are not sent; it verifies the digest of each file.
    """
    return device.store(build.folder, progress)
