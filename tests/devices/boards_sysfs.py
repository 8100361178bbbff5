"""Trees of sysfs and proc as real machines have them, in units of the kernel: files to read and write in tests."""

from __future__ import annotations

from pathlib import Path

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
HWMON = "sys/class/hwmon"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")
    return root


def clocks(policy: int, governor: str, current: int, least: int, most: int) -> dict[str, object]:
    """A cpufreq policy, in kHz."""
    of = f"{CPU}/cpufreq/policy{policy}"
    return {
        f"{of}/scaling_governor": governor, f"{of}/scaling_available_governors": "powersave ondemand performance",
        f"{of}/scaling_cur_freq": current, f"{of}/scaling_min_freq": least, f"{of}/scaling_max_freq": most,
    }  # fmt: skip


def zone(number: int, kind: str, millidegrees: int) -> dict[str, object]:
    return {f"{THERMAL}/thermal_zone{number}/type": kind, f"{THERMAL}/thermal_zone{number}/temp": millidegrees}


def cooler(number: int, kind: str, state: int, transitions: int | None = None) -> dict[str, object]:
    of = f"{THERMAL}/cooling_device{number}"
    counted = {} if transitions is None else {f"{of}/stats/total_trans": transitions}
    return {f"{of}/type": kind, f"{of}/cur_state": state, f"{of}/max_state": 3, **counted}


COMMON: dict[str, object] = {
    "proc/loadavg": "0.10 0.20 0.30 1/123 4567",
    "proc/meminfo": "MemTotal:        3884092 kB\nMemAvailable:    2000000 kB",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8",
    "proc/sys/kernel/random/boot_id": "3b1a6f6e-0000-4000-8000-000000000001",
    "proc/uptime": "1234.56 4800.00",
}


def pi4(root: Path) -> Path:
    """No sensor of current; what throttles is the firmware, which the kernel tells."""
    return write(root, {
        **COMMON, **clocks(0, "ondemand", 600000, 600000, 1800000), **zone(0, "cpu-thermal", 48212),
        f"{HWMON}/hwmon1/name": "rpi_volt", f"{HWMON}/hwmon1/in0_lcrit_alarm": 0,
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
    })  # fmt: skip


def pi5(root: Path) -> Path:
    """A fan, which is a cooling device that slows nothing down; the firmware answers by its own command."""
    write(root, {
        **COMMON, **clocks(0, "ondemand", 1500000, 1500000, 2400000), **zone(0, "cpu-thermal", 51800),
        **cooler(0, "pwm-fan", 2, 7), f"{HWMON}/hwmon0/name": "cpu_thermal", f"{HWMON}/hwmon0/temp1_input": 51800,
        "word": "throttled=0x0",
    })  # fmt: skip
    command = root / "usr/bin/vcgencmd"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] && cat {root}/word\n', encoding="utf-8")
    command.chmod(0o755)
    return root


def jetson(root: Path) -> Path:
    """An Orin: two clusters, an INA3221 with three rails of which the first feeds the others, and one without."""
    rails = [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 240)]
    own: dict[str, object] = {f"{HWMON}/hwmon3/name": "ina3221", f"{HWMON}/hwmon3/update_interval": 10}
    for number, (label, millivolts, milliamperes) in enumerate(rails, 1):
        own |= {
            f"{HWMON}/hwmon3/in{number}_label": label, f"{HWMON}/hwmon3/in{number}_input": millivolts,
            f"{HWMON}/hwmon3/curr{number}_input": milliamperes, f"{HWMON}/hwmon3/in{number}_enable": 1,
        }  # fmt: skip
    unused = {f"{HWMON}/hwmon4/name": "ina3221", f"{HWMON}/hwmon4/curr1_input": 0, f"{HWMON}/hwmon4/in1_enable": 0}
    return write(root, {
        **COMMON, **clocks(0, "schedutil", 729600, 729600, 1510400), **clocks(4, "schedutil", 729600, 729600, 1510400),
        **zone(0, "cpu-thermal", 45000), **zone(1, "gpu-thermal", 43500), **zone(2, "tj-thermal", 45500),
        **cooler(0, "pwm-fan", 1), **cooler(1, "thermal-cpufreq-0", 0, 4), **own, **unused,
    })  # fmt: skip


def laptop(root: Path) -> Path:
    """x86 with Intel's counters of throttling, turbo, and RAPL: two packages' worth of zones, one nearly at its end."""
    rapl, cpu = "sys/class/powercap", f"{CPU}/cpu{{}}/thermal_throttle"
    own: dict[str, object] = {}
    for core, count in enumerate((3, 5)):
        own |= {f"{cpu.format(core)}/core_throttle_count": count, f"{cpu.format(core)}/package_throttle_count": 9}
    return write(root, {
        **COMMON, **clocks(0, "powersave", 2900000, 400000, 4200000),
        **clocks(1, "powersave", 2800000, 400000, 4200000),
        f"{CPU}/intel_pstate/no_turbo": 0, **zone(0, "acpitz", 27800), **zone(1, "x86_pkg_temp", 61000),
        **cooler(0, "Processor", 0), **cooler(1, "intel_powerclamp", -1), **own,
        f"{rapl}/intel-rapl:0/name": "package-0", f"{rapl}/intel-rapl:0/energy_uj": 262_143_000_000,
        f"{rapl}/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
        f"{rapl}/intel-rapl:0:0/name": "core", f"{rapl}/intel-rapl:0:0/energy_uj": 1000,
        f"{rapl}/intel-rapl:0:0/max_energy_range_uj": 262_143_328_850,
    })  # fmt: skip
