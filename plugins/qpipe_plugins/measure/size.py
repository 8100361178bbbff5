"""What a build weighs."""

from __future__ import annotations

import qpipe


def size(deployed: qpipe.Deployed) -> list[qpipe.Measurement]:
    """Bytes of all files that travel to the device for this build, in MB (10^6 bytes); mean bits of its weights.

    effective_bits counts each weight with the bits of its codebook, 32 where it is float; biases and scales not at all.
    What cannot be packed as tightly in the file (3 bits take 4 there, 5 to 7 take 8) is seen in size_mb.
    """
    found = [qpipe.Measurement("size_mb", deployed.stored.size / 1e6, "MB", deployed=deployed.name)]
    weights = deployed.build.manifest.get("weights") or {}
    if weights.get("count"):
        mean = weights["bits"] / weights["count"]
        found.append(
            qpipe.Measurement(
                "effective_bits", mean, "bits", n=weights["count"], deployed=deployed.name
            )
        )
    return found
