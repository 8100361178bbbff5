"""What a device with a runtime asks of quantization (its target) and of a build (its platform)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qpipe.types import Capabilities, Platform, Target

VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}  # sums of u8 x s8 in 32 bits


def target_of(capabilities: Capabilities | None, *demands: Mapping[str, bool]) -> Target:
    """What quantization must respect there: what the CPU is known to do, then the demands, each over those before."""
    x86 = capabilities is not None and capabilities.arch in ("x86_64", "AMD64")
    found = Target(
        saturates=x86 and capabilities is not None and not VNNI & set(capabilities.features)
    )
    for demand in demands:
        found = replace(found, **demand)
    return found


def platform_of(capabilities: Capabilities | None, runtime: str) -> Platform:
    """What a build for that runtime must fit there; an unknown device counts as a current x86 one, and a runtime of
    which no table says what it loads gets what is widely loaded."""
    if capabilities is None:
        return Platform(runtime=runtime)
    if runtime != "onnxruntime":
        return Platform(runtime, capabilities.arch)
    return Platform(runtime, capabilities.arch, *_loads(capabilities.runtimes.get(runtime, "")))


def _loads(version: str) -> tuple[int, int]:
    """The newest opset and IR version that an ONNX Runtime loads (its table of releases); old ones for a stranger."""
    table = {
        32: (28, 14),
        23: (24, 12),
        22: (23, 11),
        21: (22, 10),
        20: (21, 10),
        19: (21, 10),
        18: (21, 10),
    }
    table |= {17: (20, 9), 16: (19, 9)}
    parts = version.split(".")
    if len(parts) < 2 or not parts[1].isdigit():
        return Platform.max_opset, Platform.max_ir_version
    known = [minor for minor in table if minor <= int(parts[1])]
    return table[max(known)] if known else (17, 8)
