"""What the device is: architecture, CPU, memory, versions; the digest of what decides results."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .system_files import BOOT_ID, read_text

# the features that decide which kernels a runtime selects
FEATURES = (
    "sse4_1",
    "avx",
    "fma",
    "f16c",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "fphp",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "svei8mm",
    "sme",
    "v",
)
DARWIN_FEATURES = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.avx2_0": "avx2",
}
# MIDR part numbers of the cores on boards: /proc/cpuinfo of an ARM has no name for them
ARM_PARTS = {
    0xC07: "Cortex-A7",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
}
# bits of getauxval(AT_HWCAP) and getauxval(AT_HWCAP2) on aarch64, by the kernel's names
HWCAP_BITS = {
    16: {"asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22},
    26: {"sve2": 1, "svei8mm": 9, "i8mm": 13, "bf16": 14, "sme": 23},
}
# runtime -> distribution -> variant of the runtime; "" is the stock one
RUNTIME_DISTRIBUTIONS = {
    "onnxruntime": {
        f"onnxruntime-{variant}".rstrip("-"): variant
        for variant in (
            "",
            "gpu",
            "openvino",
            "qnn",
            "rocm",
            "migraphx",
            "cann",
            "training",
            "directml",
        )
    },
    "openvino": {"openvino": ""},
    "iree": {"iree-base-runtime": ""},
}
# in the name of an emulated CPU: QEMU's `virt`, and _linux_cpu's name for user-mode emulation
EMULATOR_MARKS = ("dummy-virt", " emulated on ")
# of a Python of 32 bits on a kernel of 64
ARCHITECTURE_OF_32_BITS = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}


class Cpu(NamedTuple):
    """The name of the CPU, and those of FEATURES that it has."""

    name: str
    features: list[str]


def capabilities(root: Path) -> dict[str, Any]:
    """Return the fields of qpipe.Capabilities; `root` is the tree that holds `proc`."""
    cpu = _darwin_cpu() if platform.system() == "Darwin" else _linux_cpu()
    deciding = {
        "arch": _architecture(),
        "cpu": cpu.name,
        "features": cpu.features,
        "numpy": np.__version__,
        "runtimes": _runtime_versions(),
    }
    fingerprint = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    is_emulated = any(mark in cpu.name for mark in EMULATOR_MARKS)
    return {
        **deciding,
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count() or 1,
        "memory_mb": round(memory_bytes / 1e6, 1),
        "python": platform.python_version(),
        "fingerprint": fingerprint,
        "emulated": "wall" if is_emulated else None,
        "boot_id": read_text(root / BOOT_ID),
    }


def _architecture() -> str:
    """Return the architecture of this Python, which decides what it can load."""
    machine = platform.machine()
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(machine, machine)
    if sys.maxsize < 1 << 32:
        return ARCHITECTURE_OF_32_BITS.get(machine, machine)
    return machine


# ---- the CPU


def _linux_cpu() -> Cpu:
    fields = _cpuinfo_fields(Path("/proc/cpuinfo"))
    architecture = _architecture()
    is_x86 = architecture == "x86_64" or architecture.endswith("86")
    if "vendor_id" in fields and not is_x86:
        # user-mode emulation shows the cpuinfo of the machine it runs on
        return Cpu(f"{architecture} emulated on {_cpu_name(fields)}", _hwcap_features())
    flags = " ".join(fields.get("flags", []) + fields.get("features", [])).split()
    if architecture == "aarch64":
        flags += _hwcap_features()
    return Cpu(_cpu_name(fields), [feature for feature in FEATURES if feature in flags])


def _cpuinfo_fields(path: Path) -> dict[str, list[str]]:
    """Return the distinct values by key in lower case; {} where there is no such file."""
    fields: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            values = fields.setdefault(key.strip().lower(), [])
            if value.strip() not in values:
                values.append(value.strip())
    return fields


def _hwcap_features() -> list[str]:
    """Return the features that the kernel, or an emulator, reports to this process.

    Runtimes go by them.
    """
    if _architecture() != "aarch64":
        return []
    features: set[str] = set()
    try:
        import ctypes

        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype = ctypes.c_ulong
        getauxval.argtypes = [ctypes.c_ulong]
        for entry, bits in HWCAP_BITS.items():
            word = getauxval(entry)
            features.update(name for name, bit in bits.items() if word >> bit & 1)
    except (ImportError, OSError, AttributeError):
        return []
    return [feature for feature in FEATURES if feature in features]


def _cpu_name(fields: Mapping[str, Sequence[str]]) -> str:
    """Return the name of the CPU; on ARM the names of its cores after that of the board."""
    if fields.get("model name") and "cpu part" not in fields:
        return fields["model name"][0]
    parts = sorted(int(part, 16) for part in fields.get("cpu part", []))
    cores = " + ".join(ARM_PARTS.get(part, f"part {part:#x}") for part in parts)
    try:
        board = Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    except OSError:
        board = (fields.get("hardware") or [""])[0]
    name = ", ".join(part for part in (board, cores) if part)
    return name or platform.processor() or "unknown"


def _darwin_cpu() -> Cpu:
    features = [feature for key, feature in DARWIN_FEATURES.items() if _sysctl(key) == "1"]
    return Cpu(_sysctl("machdep.cpu.brand_string") or "unknown", features)


def _sysctl(key: str) -> str:
    finished = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return finished.stdout.strip()


# ---- runtimes


def _runtime_versions() -> dict[str, str]:
    """Return the versions of the runtimes that an import would find, without importing them.

    A version is 1.32.0, or 1.32.0+gpu of a variant.
    """
    versions: dict[str, str] = {}
    for runtime, variants in RUNTIME_DISTRIBUTIONS.items():
        for folder in sys.path:
            version = _version_in(folder, variants)
            if version:
                versions[runtime] = version
                break
    return versions


def _version_in(folder: str, variants: Mapping[str, str]) -> str:
    """Return the version of a runtime in a folder of the path; "" where it is not there.

    Variants that are installed side by side overwrite each other's files, so all are named.
    """
    by_variant: dict[str, str] = {}
    for distribution, variant in variants.items():
        version = _installed_version(distribution, folder)
        if version:
            by_variant[variant] = version
    if not by_variant:
        return ""
    label = ".".join(sorted(variant for variant in by_variant if variant))
    return _labelled(by_variant[min(by_variant)], label)


def _installed_version(distribution: str, folder: str) -> str:
    installed = importlib.metadata.distributions(name=distribution, path=[folder or "."])
    return next((entry.version for entry in installed), "")


def _labelled(version: str, label: str) -> str:
    """Return a local version as PEP 440 has it."""
    if not label:
        return version
    separator = "." if "+" in version else "+"
    return f"{version}{separator}{label}"
