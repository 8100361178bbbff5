"""Describe the machine that runs the tests: what decides their results and how long they take.

A program as well: `python tests/machine.py` prints the description. It needs the standard library only.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

# features by which ONNX Runtime chooses integer kernels
KERNEL_FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)
EXACT_FEATURES = {"avx_vnni", "avx512_vnni", "amx_int8"}


def describe_machine() -> str:
    """Return one line: processor, its features that matter, cores, memory and load."""
    fields = _processor_fields()
    architecture = platform.machine()
    name = fields.get("model name", architecture)
    flags = fields.get("flags", fields.get("features", "")).split()
    features = [feature for feature in KERNEL_FEATURES if feature in flags]
    kind = _kind_of_x86(features) if architecture in ("x86_64", "AMD64") else architecture
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    load = os.getloadavg()[0]
    return (
        f"{name}, {kind} ({' '.join(features) or 'no known feature'}), {os.cpu_count()} cores, "
        f"{memory_gb:.0f} GB, load {load:.1f}"
    )


def _kind_of_x86(features: list[str]) -> str:
    """Return what u8 x s8 products are summed in."""
    if EXACT_FEATURES & set(features):
        return "x86 with VNNI: u8s8 sums are exact"
    return "x86 without VNNI: u8s8 sums saturate"


def _processor_fields() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo, by lower-case name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    return fields


if __name__ == "__main__":
    print(f"machine: {describe_machine()}")
