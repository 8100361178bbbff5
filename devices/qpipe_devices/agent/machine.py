"""What the device is: architecture, CPU, features, memory, versions; and the digest of what can change a result."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import environment

# those that decide which kernels a runtime picks
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
# MIDR part numbers of the cores that boards carry: /proc/cpuinfo of an ARM has no name for them
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
# bits of getauxval(AT_HWCAP) and (AT_HWCAP2) on aarch64, by the kernel's names of them
HWCAPS = {
    16: {"asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22},
    26: {"sve2": 1, "svei8mm": 9, "i8mm": 13, "bf16": 14, "sme": 23},
}
# distributions by what they are of their runtime: "" is the stock one
RUNTIMES = {
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
# in the name of a board that is an emulator: QEMU's `virt`, and what _linux says of user-mode emulation
EMULATORS = ("dummy-virt", " emulated on ")
NARROW = {
    "aarch64": "armv7l",
    "armv8l": "armv7l",
    "x86_64": "i686",
}  # a Python of 32 bits on a kernel of 64


def capabilities(root: Path) -> Dict[str, Any]:  # noqa: UP006
    """The fields of qpipe's Capabilities; `root` has the tree with `proc`."""
    cpu, features = _darwin() if platform.system() == "Darwin" else _linux()
    known = {
        "arch": _architecture(),
        "cpu": cpu,
        "features": features,
        "numpy": np.__version__,
        "runtimes": _runtimes(),
    }
    fingerprint = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        **known,
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count() or 1,
        "memory_mb": round(pages / 1e6, 1),
        "python": platform.python_version(),
        "fingerprint": fingerprint,
        "emulated": "wall" if any(mark in cpu for mark in EMULATORS) else None,
        "boot_id": environment.text(root / environment.BOOT_ID),
    }


def _architecture() -> str:
    """That of this Python, which decides what it can load."""
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return NARROW.get(machine, machine) if sys.maxsize < 1 << 32 else machine


def _linux() -> tuple[str, list[str]]:
    fields = _cpuinfo(Path("/proc/cpuinfo"))
    arch = _architecture()
    if "vendor_id" in fields and not arch.endswith("86") and arch != "x86_64":
        # user-mode emulation shows the cpuinfo of the machine it runs on
        return f"{arch} emulated on {_name(fields)}", _hwcaps()
    flags = " ".join(fields.get("flags", []) + fields.get("features", [])).split()
    flags += _hwcaps() if arch == "aarch64" else []
    return _name(fields), [feature for feature in FEATURES if feature in flags]


def _cpuinfo(path: Path) -> dict[str, list[str]]:
    """Its values by key in lower case, each once; nothing where there is no such file."""
    fields: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            values = fields.setdefault(key.strip().lower(), [])
            if value.strip() not in values:
                values.append(value.strip())
    return fields


def _hwcaps() -> list[str]:
    """What the kernel, or an emulator, tells this process that the CPU can do: what runtimes go by."""
    if _architecture() != "aarch64":
        return []
    try:
        import ctypes

        ask = ctypes.CDLL(None).getauxval
        ask.restype = ctypes.c_ulong
        ask.argtypes = [ctypes.c_ulong]
        found = {
            name
            for kind, bits in HWCAPS.items()
            for name, bit in bits.items()
            if ask(kind) >> bit & 1
        }
    except (ImportError, OSError, AttributeError):
        return []
    return [feature for feature in FEATURES if feature in found]


def _name(fields: dict[str, list[str]]) -> str:
    """The CPU's name; on ARM its cores' names after the board's."""
    if fields.get("model name") and "cpu part" not in fields:
        return fields["model name"][0]
    parts = [int(part, 16) for part in fields.get("cpu part", [])]
    names = [ARM_PARTS.get(part, f"part {part:#x}") for part in sorted(parts)]
    try:
        board = Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    except OSError:
        board = (fields.get("hardware") or [""])[0]
    return ", ".join(filter(None, [board, " + ".join(names)])) or platform.processor() or "unknown"


def _darwin() -> tuple[str, list[str]]:
    found = [name for key, name in DARWIN_FEATURES.items() if _sysctl(key) == "1"]
    return _sysctl("machdep.cpu.brand_string") or "unknown", found


def _sysctl(key: str) -> str:
    asked = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _runtimes() -> dict[str, str]:
    """Versions by runtime, of what an import would find, without importing it: 1.32.0, or 1.32.0+gpu of a variant."""
    found: dict[str, str] = {}
    for runtime, distributions in RUNTIMES.items():
        for place in sys.path:
            versions = {name: _version(name, place) for name in distributions}
            here = {
                variant: versions[name] for name, variant in distributions.items() if versions[name]
            }
            if here:  # variants side by side overwrite each other's files: name them all
                found[runtime] = _labelled(
                    min(here.items())[1], ".".join(sorted(filter(None, here)))
                )
                break
    return found


def _version(distribution: str, place: str) -> str:
    found = importlib.metadata.distributions(name=distribution, path=[place or "."])
    return next((each.version for each in found), "")


def _labelled(version: str, label: str) -> str:
    """A local version as PEP 440 has it."""
    return version + ("" if not label else f".{label}" if "+" in version else f"+{label}")
