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
    return {
        f"{THERMAL}/thermal_zone{number}/type": kind,
        f"{THERMAL}/thermal_zone{number}/temp": millidegrees,
    }


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
    command.write_text(
        f'#!/bin/sh\n[ "$1" = get_throttled ] && cat {root}/word\n', encoding="utf-8"
    )
    command.chmod(0o755)
    return root


def ina3221(number: int, rails: list[tuple[str, int, int]], sums: int) -> dict[str, object]:
    """Its channels as (label, mV, mA); beside them it has the sum of the currents, and the voltages of the shunts."""
    of = f"{HWMON}/hwmon{number}"
    found: dict[str, object] = {f"{of}/name": "ina3221", f"{of}/update_interval": 10}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        found |= {
            f"{of}/in{channel}_input": millivolts, f"{of}/curr{channel}_input": milliamperes,
            f"{of}/in{channel}_enable": 1, f"{of}/in{channel + 3}_input": 6,
            **({f"{of}/in{channel}_label": label} if label else {}),
        }  # fmt: skip
    return found | {
        f"{of}/in7_input": 18,
        f"{of}/in7_label": "sum of shunt voltages",
        f"{of}/curr4_input": sums,
    }


def jetson(root: Path) -> Path:
    """An Orin: two clusters, an INA3221 with three rails of which the first feeds the others, and one without."""
    own = ina3221(
        3, [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 240)], 1840
    )
    unused = {
        f"{HWMON}/hwmon4/name": "ina3221",
        f"{HWMON}/hwmon4/curr1_input": 0,
        f"{HWMON}/hwmon4/in1_enable": 0,
    }
    return write(root, {
        **COMMON, **clocks(0, "schedutil", 729600, 729600, 1510400), **clocks(4, "schedutil", 729600, 729600, 1510400),
        **zone(0, "cpu-thermal", 45000), **zone(1, "gpu-thermal", 43500), **zone(2, "tj-thermal", 45500),
        **cooler(0, "pwm-fan", 1), **cooler(1, "thermal-cpufreq-0", 0, 4), **own, **unused,
    })  # fmt: skip


def orin_agx(root: Path) -> Path:
    """Three rails beside each other, of which none feeds the others."""
    rails = [("VDD_GPU_SOC", 20000, 200), ("VDD_CPU_CV", 20000, 100), ("VIN_SYS_5V0", 5000, 400)]
    return write(root, {**COMMON, **ina3221(1, rails, 700)})


def amd(root: Path) -> Path:
    """An AMD laptop: its thermal zones are the firmware's, which never moves, and the Wi-Fi's; the CPU is in hwmon."""
    return write(root, {
        **COMMON, **clocks(0, "schedutil", 1400000, 1400000, 4200000), f"{CPU}/cpufreq/boost": 1,
        **zone(0, "acpitz", 20000), **zone(1, "iwlwifi_1", 71000),
        f"{HWMON}/hwmon4/name": "k10temp", f"{HWMON}/hwmon4/temp1_input": 63500, f"{HWMON}/hwmon4/temp1_label": "Tctl",
        f"{HWMON}/hwmon5/name": "amdgpu", f"{HWMON}/hwmon5/temp1_input": 88000,
    })  # fmt: skip


def laptop(root: Path) -> Path:
    """x86 with Intel's counters of throttling, turbo, and RAPL: two packages' worth of zones, one nearly at its end."""
    rapl, cpu = "sys/class/powercap", f"{CPU}/cpu{{}}/thermal_throttle"
    own: dict[str, object] = {}
    for core, count in enumerate((3, 5)):
        own |= {
            f"{cpu.format(core)}/core_throttle_count": count,
            f"{cpu.format(core)}/package_throttle_count": 9,
        }
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


def server(root: Path) -> Path:
    """Two sockets with two cores each: the throttle counts of their packages, and RAPL with memory of each."""
    files: dict[str, object] = {}
    for core, package, count in ((0, 0, 40), (1, 0, 40), (2, 1, 7), (3, 1, 7)):
        of = f"{CPU}/cpu{core}"
        files |= {
            f"{of}/topology/physical_package_id": package, f"{of}/thermal_throttle/core_throttle_count": 0,
            f"{of}/thermal_throttle/package_throttle_count": count,
        }  # fmt: skip
    for package in (0, 1):
        for zone_name, name in (
            (f"intel-rapl:{package}", f"package-{package}"),
            (f"intel-rapl:{package}:0", "dram"),
        ):
            of = f"sys/class/powercap/{zone_name}"
            files |= {
                f"{of}/name": name,
                f"{of}/energy_uj": 1000,
                f"{of}/max_energy_range_uj": 262_143_328_850,
            }
    return write(root, {**COMMON, **clocks(0, "performance", 2900000, 400000, 4200000), **files})
