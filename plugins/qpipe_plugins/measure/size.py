"""Size of a build, and mean bits of its weights."""

from __future__ import annotations

import qpipe


def size(deployed: qpipe.Deployed) -> list[qpipe.Measurement]:
    """Return the size of all files sent to the device, in MB (10^6 bytes), and mean weight bits.

    effective_bits counts each weight with the bits of its codebook, 32 where it is float; biases
    and scales do not count. Codes that the file does not pack as tightly (by default 7 bits take
    8 there) show in size_mb.
    """
    size_mb = deployed.stored.size / 1e6
    measurements = [qpipe.Measurement("size_mb", size_mb, "MB", deployed=deployed.name)]
    weights = deployed.build.manifest.get("weights") or {}
    count = weights.get("count")
    if count:
        mean_bits = weights["bits"] / count
        measurements.append(
            qpipe.Measurement(
                "effective_bits",
                mean_bits,
                "bits",
                n=count,
                deployed=deployed.name,
                detail={"limited_layers": weights.get("limited_layers", 0)},
            )
        )
    return measurements
