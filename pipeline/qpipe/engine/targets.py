"""What a device with a runtime asks of quantization (the target) and of a build (the platform)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qpipe.types import Capabilities, Platform, Target

VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}  # these CPU features sum u8 x s8 in 32 bits
X86 = ("x86_64", "AMD64")

# minor version of ONNX Runtime 1.x -> the newest opset and IR version that it loads
# (ONNX Runtime's table of releases); versions between two entries load what the older one does
LOADS = {
    16: (19, 9),
    17: (20, 9),
    18: (21, 10),
    19: (21, 10),
    20: (21, 10),
    21: (22, 10),
    22: (23, 11),
    23: (24, 12),
    32: (28, 14),
}
LOADS_BEFORE_TABLE = (17, 8)


def target_of(capabilities: Capabilities | None, *demands: Mapping[str, bool]) -> Target:
    """Return what quantization must respect on a device.

    It begins with what the CPU is known to do; each of `demands` overrides what precedes it.
    """
    saturates = False
    if capabilities is not None and capabilities.arch in X86:
        saturates = not VNNI & set(capabilities.features)
    target = Target(saturates=saturates)
    for demand in demands:
        target = replace(target, **demand)
    return target


def platform_of(capabilities: Capabilities | None, runtime: str) -> Platform:
    """Return what a build for a runtime must fit on a device.

    A device that was never checked counts as a current x86 machine. A runtime other than
    ONNX Runtime gets the opset and IR version that are widely loaded.
    """
    if capabilities is None:
        return Platform(runtime=runtime)
    if runtime != "onnxruntime":
        return Platform(runtime, capabilities.arch)
    opset, ir_version = _newest_versions(capabilities.runtimes.get(runtime, ""))
    return Platform(runtime, capabilities.arch, opset, ir_version)


def _newest_versions(onnxruntime_version: str) -> tuple[int, int]:
    """Return the newest opset and IR version that an ONNX Runtime loads.

    A version that cannot be read gets the defaults of Platform.
    """
    parts = onnxruntime_version.split(".")
    if len(parts) < 2 or not parts[1].isdigit():
        return Platform.max_opset, Platform.max_ir_version
    minor = int(parts[1])
    not_newer = [entry for entry in LOADS if entry <= minor]
    if not not_newer:
        return LOADS_BEFORE_TABLE
    return LOADS[max(not_newer)]
