"""What a device is like around a round: clocks, heat, throttling, load; and whether they spoiled the round.

Paths and units are the kernel's (admin-guide/pm/cpufreq, driver-api/thermal/sysfs-api, hwmon/sysfs-interface). Every
function takes the root of the tree that it reads; what a device does not tell is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Set, Tuple  # noqa: UP035  (Python 3.8 on the board)

CPU = "sys/devices/system/cpu"
SLOWING = re.compile(
    "processor|cpufreq|devfreq|cpuidle|throttle|powerclamp", re.IGNORECASE
)  # not: fans, screens
CPU_HEAT = re.compile("cpu|soc|pkg|package|core|k10temp|big|little|cluster|zenpower", re.IGNORECASE)
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
BOOT_ID = "proc/sys/kernel/random/boot_id"
PI_WORD = "sys/devices/platform/soc/soc:firmware/get_throttled"
PI_COMMANDS = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
PI_SINCE_BOOT = 16  # the same bits, so much further up: it has occurred since boot
SWITCHES = {"voluntary": "voluntary_ctxt_switches", "involuntary": "nonvoluntary_ctxt_switches"}
SHORTEST_S = 0.2  # the kernel counts CPU time in hundredths of a second

Snapshot = Dict[str, Any]  # noqa: UP006


def snapshot(root: Path, group: int | None = None) -> Snapshot:
    """What there is to know now, as plain JSON; `group`: the runner's process group, whose context switches count."""
    found = {
        "governor": {policy.name: text(policy / "scaling_governor") for policy in policies(root)},
        "frequency_khz": {policy.name: _frequencies(policy) for policy in policies(root)},
        "boost": _boost(root),
        "temperature_c": temperatures(root),
        "throttling": throttling(root),
        "load": [float(word) for word in (text(root / "proc/loadavg") or "").split()[:3]],
        "memory_available_mb": _available(root),
        "switches": _switches(root, group),
        "kernel": text(root / "proc/sys/kernel/osrelease"),
        "boot_id": text(root / BOOT_ID),
        "uptime_s": float((text(root / "proc/uptime") or "0").split()[0]) or None,
    }
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def disturbances(before: Snapshot, after: Snapshot) -> List[str]:  # noqa: UP006
    """Why a round between two snapshots is not to be believed: it was throttled, or its clocks were changed."""
    return [
        *_throttled(before.get("throttling", {}), after.get("throttling", {})),
        *_changed(before, after),
    ]


def _throttled(before: Mapping[str, int], after: Mapping[str, int]) -> Iterable[str]:
    for name, now in after.items():
        was = before.get(name, 0)
        if name == "get_throttled":
            begun = (now & ~was) >> PI_SINCE_BOOT
            words = [word for bit, word in PI_NOW.items() if (now | was | begun) >> bit & 1]
            if words:
                yield f"throttled: {', '.join(words)} (get_throttled {now:#x})"
        elif name.endswith(" state"):
            if max(now, was) > 0:
                yield f"throttled: {name} {max(now, was)}"
        elif now > was:
            yield f"throttled: {name} rose by {now - was}"


def _changed(before: Snapshot, after: Snapshot) -> Iterable[str]:
    for policy, now in after.get("governor", {}).items():
        was = before.get("governor", {}).get(policy)
        if was and now != was:
            yield f"clocks changed: governor of {policy} from {was} to {now}"
    for policy, limits in after.get("frequency_khz", {}).items():
        most = before.get("frequency_khz", {}).get(policy, {}).get("max")
        if most and limits.get("max") and limits["max"] != most:
            yield f"clocks changed: limit of {policy} from {most // 1000} to {limits['max'] // 1000} MHz"


# ---- clocks and heat


def policies(root: Path) -> List[Path]:  # noqa: UP006
    """The kernel's groups of cores that share a clock."""
    return sorted((root / CPU / "cpufreq").glob("policy*"))


def _frequencies(policy: Path) -> Dict[str, int]:  # noqa: UP006
    read = {key: number(policy / f"scaling_{key}_freq") for key in ("cur", "min", "max")}
    return {key: value for key, value in read.items() if value is not None}


def _boost(root: Path) -> bool | None:
    boost = number(root / CPU / "cpufreq/boost")
    no_turbo = number(root / CPU / "intel_pstate/no_turbo")
    if boost is None and no_turbo is None:
        return None
    return bool(boost) if no_turbo is None else not no_turbo


def temperatures(root: Path) -> Dict[str, float]:  # noqa: UP006
    """Degrees Celsius by type of thermal zone; and by the CPU's own sensors where no zone is the CPU's."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        _note_hottest(found, text(zone / "type") or zone.name, number(zone / "temp"))
    has_cpu = any(
        CPU_HEAT.search(name) for name in found
    )  # others may be the firmware's, or the Wi-Fi's
    for sensor in [] if has_cpu else sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if text(sensor / "name") in CPU_SENSORS:
            for own in sorted(sensor.glob("temp*_input")):
                _note_hottest(found, str(text(sensor / "name")), number(own))
    return found


def _note_hottest(found: dict[str, float], name: str, millidegrees: int | None) -> None:
    if millidegrees is not None:
        found[name] = max(found.get(name, -273.0), millidegrees / 1000)


def hottest(by_type: Mapping[str, float]) -> float | None:
    """The temperature of the hottest zone of the CPU, of all where none is called so."""
    own = [value for name, value in by_type.items() if CPU_HEAT.search(name)]
    return max(own or by_type.values(), default=None)


def throttling(root: Path) -> Dict[str, int]:  # noqa: UP006
    """States of what slows the device down (`... state`, 0: at rest), counters that only rise, and get_throttled."""
    found: dict[str, int | None] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = text(device / "type") or ""
        if SLOWING.search(kind):
            found[f"{device.name} ({kind}) state"] = number(device / "cur_state")
            found[f"{device.name} ({kind}) transitions"] = number(device / "stats/total_trans")
    found.update(_throttle_counts(root))
    for sensor in (root / "sys/class/hwmon").glob("hwmon*"):
        if text(sensor / "name") == "rpi_volt":
            found["under-voltage state"] = number(sensor / "in0_lcrit_alarm")
    found["get_throttled"] = _pi_word(root)
    return {name: value for name, value in found.items() if value is not None}


def _throttle_counts(root: Path) -> Dict[str, int]:  # noqa: UP006
    """Intel's counters, summed over the machine: that of a core by itself, that of a package by each core of it."""
    cores: list[int] = []
    packages: dict[int | None, int] = {}
    for core in (root / CPU).glob("cpu[0-9]*"):
        own, package = (
            number(core / f"thermal_throttle/{of}_throttle_count") for of in ("core", "package")
        )
        if own is not None:
            cores.append(own)
        if package is not None:
            which = number(core / "topology/physical_package_id")
            packages[which] = max(packages.get(which, 0), package)
    counted = {"core_throttle_count": cores, "package_throttle_count": list(packages.values())}
    return {name: sum(counts) for name, counts in counted.items() if counts}


def _pi_word(root: Path) -> int | None:
    """What a Raspberry Pi's firmware says, by the kernel or by its own command; hexadecimal."""
    said = text(root / PI_WORD)
    command = next(
        (str(root / each) for each in PI_COMMANDS if shutil.which(str(root / each))), None
    )
    try:
        if said is None and command:
            asked = [command, "get_throttled"]
            said = subprocess.run(
                asked, capture_output=True, text=True, timeout=5, check=False
            ).stdout
        return int((said or "").rpartition("=")[2], 16)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return None


# ---- load


def cores(group: int) -> Set[int]:  # noqa: UP006
    """The cores that any thread of a process group may run on; none where the system does not say."""
    found: set[int] = set()
    for folder, _ in _members(Path("/"), group) if hasattr(os, "sched_getaffinity") else ():
        for thread in folder.glob("task/[0-9]*"):
            with contextlib.suppress(OSError):  # it may be gone
                found |= os.sched_getaffinity(int(thread.name))
    return found


class Load:
    """How busy others keep the cores that a runner may use, from one moment on."""

    def __init__(self, root: Path, group: int, cores: Iterable[int], now: float) -> None:
        self.root = root
        self.group = group
        self.cores = sorted(cores)
        self.start = now
        self.busy = self._busy()
        self.own = self._own()

    def others(self, now: float) -> float | None:
        """The share of those cores that neither the runner nor this process took; None where nobody can tell."""
        seconds = now - self.start
        busy = self._busy()
        if busy is None or self.busy is None or not self.cores or seconds < SHORTEST_S:
            return None
        others = (busy - self.busy) - (self._own() - self.own)
        return max(0.0, others / (seconds * len(self.cores)))

    def _busy(self) -> float | None:
        """CPU seconds of all on those cores; None where the kernel does not say, or the cores are shared by quota."""
        quota = (text(self.root / "sys/fs/cgroup/cpu.max") or "max").split()[0]
        ticks = {}
        for line in (text(self.root / "proc/stat") or "").splitlines():
            words = line.split()
            if re.fullmatch(r"cpu\d+", words[0]):
                user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[1:9])
                ticks[int(words[0][3:])] = user + nice + system + irq + softirq + steal
        if quota != "max" or not set(self.cores) <= set(ticks):
            return None
        return sum(ticks[core] for core in self.cores) / os.sysconf("SC_CLK_TCK")

    def _own(self) -> float:
        times = os.times()
        ticks = sum(
            sum(int(word) for word in each[11:15]) for _, each in _members(self.root, self.group)
        )
        return ticks / os.sysconf("SC_CLK_TCK") + times.user + times.system


def _members(root: Path, group: int) -> Iterable[Tuple[Path, List[str]]]:  # noqa: UP006
    """Of each process of a group, its folder in proc and the fields of its `stat` after its name."""
    for path in (root / "proc").glob("[0-9]*/stat"):
        fields = (text(path) or "").rpartition(")")[2].split()
        if len(fields) > 15 and fields[2] == str(group):
            yield path.parent, fields


def _switches(root: Path, group: int | None) -> Dict[str, int]:  # noqa: UP006
    """Context switches so far of all the threads that a process group has."""
    found: dict[str, int] = {}
    members = [] if group is None else [folder for folder, _ in _members(root, group)]
    for thread in (path for folder in members for path in folder.glob("task/*/status")):
        fields = dict(
            line.split(":", 1) for line in (text(thread) or "").splitlines() if ":" in line
        )
        for word, name in SWITCHES.items():
            if name in fields:
                found[word] = found.get(word, 0) + int(fields[name])
    return found


def _available(root: Path) -> float | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    return round(int(found.group(1)) * 1024 / 1e6, 1) if found else None


# ---- files of one value


def text(path: Path) -> str | None:
    """What a file says; None where it is not there, or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The whole number in a file; None where there is none."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None
