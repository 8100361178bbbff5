"""The state of a device around a round: clocks, heat, throttling; and whether it spoiled the round.

Paths and units are the kernel's (admin-guide/pm/cpufreq, driver-api/thermal/sysfs-api,
hwmon/sysfs-interface). Every function takes the root of the tree that it reads; what a device does
not report is left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .cpu_load import context_switches
from .system_files import BOOT_ID, read_number, read_text

if TYPE_CHECKING:
    from qpipe.types import EnvironmentSnapshot

CPU = "sys/devices/system/cpu"
# cooling devices that slow the processor down, unlike fans and screens
SLOWING_DEVICE = re.compile("processor|cpufreq|devfreq|cpuidle|throttle|powerclamp", re.IGNORECASE)
CPU_ZONE = re.compile("cpu|soc|pkg|package|core|k10temp|big|little|cluster|zenpower", re.IGNORECASE)
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# the version of what starts the board: a Raspberry Pi's bootloader, a PC's BIOS or UEFI
FIRMWARE_FILES = (
    "sys/firmware/devicetree/base/chosen/bootloader/version",
    "sys/class/dmi/id/bios_version",
)
THROTTLED_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
THROTTLED_COMMANDS = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
# bits of get_throttled of a Raspberry Pi
THROTTLED_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
SINCE_BOOT_SHIFT = 16  # the same bits, shifted by so many: it has occurred since boot


def snapshot(root: Path, group: int | None = None) -> EnvironmentSnapshot:
    """Return the state of the device now, as plain JSON.

    `group` is the runner's process group, whose context switches are counted.
    """
    cpu_policies = policies(root)
    load_average = (read_text(root / "proc/loadavg") or "").split()[:3]
    uptime = (read_text(root / "proc/uptime") or "0").split()[0]
    state: dict[str, Any] = {
        "governor": {
            policy.name: read_text(policy / "scaling_governor") for policy in cpu_policies
        },
        "frequency_khz": {policy.name: _frequencies(policy) for policy in cpu_policies},
        "boost": _boost(root),
        "temperature_c": temperatures(root),
        "throttling": throttling(root),
        "load": [float(average) for average in load_average],
        "memory_available_mb": _available_memory_mb(root),
        "switches": {} if group is None else context_switches(root, group),
        "kernel": read_text(root / "proc/sys/kernel/osrelease"),
        "firmware": _firmware(root),
        "boot_id": read_text(root / BOOT_ID),
        "uptime_s": float(uptime) or None,
    }
    reported = {key: value for key, value in state.items() if value not in (None, {}, [])}
    return cast("EnvironmentSnapshot", reported)


def disturbances(before: EnvironmentSnapshot, after: EnvironmentSnapshot) -> list[str]:
    """Return why a round between two snapshots is invalid.

    It was throttled, or its clocks were changed; [] where neither was the case.
    """
    return [
        *_throttling_reasons(before.get("throttling", {}), after.get("throttling", {})),
        *_clock_reasons(before, after),
    ]


def _throttling_reasons(before: Mapping[str, int], after: Mapping[str, int]) -> Iterable[str]:
    for name, value in after.items():
        previous = before.get(name, 0)
        if name == "get_throttled":
            new_since_boot = (value & ~previous) >> SINCE_BOOT_SHIFT
            bits = value | previous | new_since_boot
            causes = [cause for bit, cause in THROTTLED_BITS.items() if bits >> bit & 1]
            if causes:
                yield f"throttled: {', '.join(causes)} (get_throttled {value:#x})"
        elif name.endswith(" state"):
            highest = max(value, previous)
            if highest > 0:
                yield f"throttled: {name} {highest}"
        elif value > previous:
            yield f"throttled: {name} rose by {value - previous}"


def _clock_reasons(before: EnvironmentSnapshot, after: EnvironmentSnapshot) -> Iterable[str]:
    previous_governors = before.get("governor", {})
    for policy, governor in after.get("governor", {}).items():
        previous = previous_governors.get(policy)
        if previous and governor != previous:
            yield f"clocks changed: governor of {policy} from {previous} to {governor}"
    previous_frequencies = before.get("frequency_khz", {})
    for policy, frequencies in after.get("frequency_khz", {}).items():
        old_limit = previous_frequencies.get(policy, {}).get("max")
        new_limit = frequencies.get("max")
        if old_limit and new_limit and new_limit != old_limit:
            change = f"from {old_limit // 1000} to {new_limit // 1000} MHz"
            yield f"clocks changed: limit of {policy} {change}"


# ---- clocks and heat


def policies(root: Path) -> list[Path]:
    """Return the folders of cpufreq policies: groups of cores that share a clock."""
    return sorted((root / CPU / "cpufreq").glob("policy*"))


def _frequencies(policy: Path) -> dict[str, int]:
    frequencies = {
        key: read_number(policy / f"scaling_{key}_freq") for key in ("cur", "min", "max")
    }
    return {key: value for key, value in frequencies.items() if value is not None}


def _boost(root: Path) -> bool | None:
    boost = read_number(root / CPU / "cpufreq/boost")
    no_turbo = read_number(root / CPU / "intel_pstate/no_turbo")
    if no_turbo is not None:
        return not no_turbo
    if boost is not None:
        return bool(boost)
    return None


def temperatures(root: Path) -> dict[str, float]:
    """Return degrees Celsius by type of thermal zone.

    Where no zone is the CPU's, the CPU's own sensors are added: the zones that are there may be
    those of the firmware or of the Wi-Fi.
    """
    by_type: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        zone_type = read_text(zone / "type") or zone.name
        _keep_hottest(by_type, zone_type, read_number(zone / "temp"))
    if any(CPU_ZONE.search(name) for name in by_type):
        return by_type
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = read_text(sensor / "name") or ""
        if name in CPU_SENSORS:
            for temperature in sorted(sensor.glob("temp*_input")):
                _keep_hottest(by_type, name, read_number(temperature))
    return by_type


def _keep_hottest(by_type: dict[str, float], name: str, millidegrees: int | None) -> None:
    if millidegrees is not None:
        by_type[name] = max(by_type.get(name, -273.0), millidegrees / 1000)


def hottest(by_type: Mapping[str, float]) -> float | None:
    """Return the temperature of the hottest zone of the CPU, or of all zones where none is its."""
    of_cpu = [value for name, value in by_type.items() if CPU_ZONE.search(name)]
    return max(of_cpu or by_type.values(), default=None)


def throttling(root: Path) -> dict[str, int]:
    """Return what tells that the device was slowed down, by name.

    `... state` is 0 at rest, counters only rise, `get_throttled` is a word of bits.
    """
    reported: dict[str, int | None] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        device_type = read_text(device / "type") or ""
        if SLOWING_DEVICE.search(device_type):
            label = f"{device.name} ({device_type})"
            reported[f"{label} state"] = read_number(device / "cur_state")
            reported[f"{label} transitions"] = read_number(device / "stats/total_trans")
    reported.update(_throttle_counts(root))
    for sensor in (root / "sys/class/hwmon").glob("hwmon*"):
        if read_text(sensor / "name") == "rpi_volt":
            reported["under-voltage state"] = read_number(sensor / "in0_lcrit_alarm")
    reported["get_throttled"] = _throttled_word(root)
    return {name: value for name, value in reported.items() if value is not None}


def _throttle_counts(root: Path) -> dict[str, int]:
    """Return Intel's counters, summed over the machine.

    Each core has its own counter; a package's counter is reported by each of its cores.
    """
    core_counts: list[int] = []
    package_counts: dict[int | None, int] = {}
    for core in (root / CPU).glob("cpu[0-9]*"):
        core_count = read_number(core / "thermal_throttle/core_throttle_count")
        if core_count is not None:
            core_counts.append(core_count)
        package_count = read_number(core / "thermal_throttle/package_throttle_count")
        if package_count is not None:
            package = read_number(core / "topology/physical_package_id")
            package_counts[package] = max(package_counts.get(package, 0), package_count)
    totals: dict[str, int] = {}
    if core_counts:
        totals["core_throttle_count"] = sum(core_counts)
    if package_counts:
        totals["package_throttle_count"] = sum(package_counts.values())
    return totals


def _firmware(root: Path) -> str | None:
    """Return the version of the firmware; None where the kernel does not report it."""
    for file in FIRMWARE_FILES:
        version = (read_text(root / file) or "").strip("\0 ")
        if version:
            return version
    return None


def _throttled_word(root: Path) -> int | None:
    """Return get_throttled of a Raspberry Pi's firmware, by the kernel or by its own command."""
    text = read_text(root / THROTTLED_FILE)
    if text is None:
        text = _throttled_by_command(root)
    try:
        return int((text or "").rpartition("=")[2], 16)  # "throttled=0x50005", or the number alone
    except ValueError:
        return None


def _throttled_by_command(root: Path) -> str | None:
    for name in THROTTLED_COMMANDS:
        command = str(root / name)
        if shutil.which(command):
            try:
                finished = subprocess.run(
                    [command, "get_throttled"],
                    capture_output=True,
                    text=True,
                    timeout=5,
                    check=False,
                )
            except (ValueError, OSError, subprocess.TimeoutExpired):
                return None
            return finished.stdout
    return None


def _available_memory_mb(root: Path) -> float | None:
    meminfo = read_text(root / "proc/meminfo") or ""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match is None:
        return None
    return round(int(match.group(1)) * 1024 / 1e6, 1)
