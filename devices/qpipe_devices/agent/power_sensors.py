"""The sensors of power and energy that a device has, by the kernel's own names and units.

hwmon (hwmon/sysfs-interface, hwmon/ina2xx, hwmon/ina3221) has microwatts, millivolts and
milliamperes; powercap (power/powercap) has microjoules that restart at `max_energy_range_uj`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .failures import AgentError
from .system_files import read_number, read_text

POWER_MONITORS = re.compile(r"ina(2\d\d|2xx|3221)")  # by the name of their driver
TOTAL_RAIL = re.compile(r"(^|_)(VDD|5V)_IN$")  # a rail that feeds the others
PACKAGE_RAIL = re.compile(r"package-[^/]*$")
# the ina3221 has three rails; its curr4 is their sum, its in4 to in7 are the voltages of the shunts
CURRENT_FILES = {"ina3221": "curr[1-3]_input"}
MICRO = 1e-6


class Rail(NamedTuple):
    """One channel of a sensor: `read_value` returns watts, or joules that restart at `wraps_at`."""

    name: str
    read_value: Callable[[], float]
    wraps_at: float | None = None
    update_s: float | None = None  # how often the sensor has a new value, where it is reported


class NamedRail(NamedTuple):
    """A rail and the names that it may have, from the shortest to the most specific."""

    names: Sequence[str]
    rail: Rail


def select_rails(root: Path, source: str, names: Sequence[str]) -> tuple[str, list[Rail]]:
    """Return the kind of sensor and the rails to add up.

    They are those named, else the one that feeds the others, else all. `source` is hwmon, rapl, or
    auto: the first of them that the device has. Raise AgentError where there is none.
    """
    rails_of_kind = {"hwmon": _hwmon_rails, "rapl": _rapl_rails}
    kinds = [kind for kind in rails_of_kind if source in (kind, "auto")]
    for kind in kinds:
        rails = {rail.name: rail for rail in rails_of_kind[kind](root)}
        if rails:
            selected = _selected_names(kind, list(rails), names)
            return kind, [rails[name] for name in selected]
    raise AgentError(
        f"energy: this device has no sensor of {' or '.join(kinds)}; "
        "set command to use a meter of your own, or take energy out of measure",
        failure="configuration",
    )


def _selected_names(kind: str, available: Sequence[str], requested: Sequence[str]) -> Sequence[str]:
    missing = sorted(set(requested) - set(available))
    if missing:
        raise AgentError(
            f"energy: {kind} has no rail {missing[0]}; available rails are {', '.join(available)}",
            failure="configuration",
        )
    if requested:
        return list(dict.fromkeys(requested))
    totals = [name for name in available if TOTAL_RAIL.search(name)]
    packages = [name for name in available if PACKAGE_RAIL.match(name)]
    return totals[:1] or packages or available


def _hwmon_rails(root: Path) -> list[Rail]:
    rails: list[NamedRail] = []
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        driver = read_text(sensor / "name") or ""
        if not POWER_MONITORS.fullmatch(driver):
            continue
        for current in sorted(sensor.glob(CURRENT_FILES.get(driver, "curr[1-9]_input"))):
            channel = current.name[len("curr")]
            if read_number(sensor / f"in{channel}_enable") != 0:
                rails.append(_monitor_rail(sensor, driver, channel))
    return _with_distinct_names(rails)


def _monitor_rail(sensor: Path, driver: str, channel: str) -> NamedRail:
    """Return a channel of a power monitor.

    It reads the power in microwatts where the sensor has it, else millivolts times milliamperes.
    in0 of the two-wire monitors is their shunt, in1 the bus; the ina3221 has the bus of rail n in
    in<n>.
    """
    label = read_text(sensor / f"in{channel}_label") or read_text(sensor / f"power{channel}_label")
    if not label:
        label = driver
    power = sensor / f"power{channel}_input"
    if power.is_file():
        read_value = _product_reader(power)
    else:
        voltage = sensor / f"in{channel}_input"
        read_value = _product_reader(voltage, sensor / f"curr{channel}_input")
    interval_ms = read_number(sensor / "update_interval")
    update_s = interval_ms / 1000 if interval_ms else None
    place = _bus_place(sensor)
    names = [label, f"{label} {channel}", f"{label} {place}", f"{label} {place} {channel}"]
    return NamedRail(names, Rail(label, read_value, update_s=update_s))


def _bus_place(sensor: Path) -> str:
    """Return the sensor's address on its bus, such as 1-0040, which stays the same.

    Without one it is the number of the sensor, which a boot may change.
    """
    device = sensor / "device"
    if device.is_symlink():
        return device.resolve().name
    return sensor.name


def _rapl_rails(root: Path) -> list[Rail]:
    rails: list[NamedRail] = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        range_uj = read_number(zone / "max_energy_range_uj")
        if not range_uj:
            continue
        name = read_text(zone / "name") or zone.name
        parent = read_text(zone.with_name(zone.name.rpartition(":")[0]) / "name")
        full_name = f"{parent}/{name}" if parent else name
        rail = Rail(name, _product_reader(zone / "energy_uj"), wraps_at=range_uj * MICRO)
        rails.append(NamedRail([name, full_name, zone.name], rail))
    return _with_distinct_names(rails)


def _with_distinct_names(rails: Sequence[NamedRail]) -> list[Rail]:
    """Give each rail the first of its names.

    Rails that share it get the first of their names by which they all differ.
    """
    renamed = []
    for names, rail in rails:
        namesakes = [other.names for other in rails if other.names[0] == names[0]]
        position = _first_distinct_position(namesakes)
        renamed.append(rail._replace(name=names[position]))
    return renamed


def _first_distinct_position(names_of_rails: Sequence[Sequence[str]]) -> int:
    """Return the first position at which all lists of names differ, else the last position."""
    for position, names in enumerate(zip(*names_of_rails)):  # noqa: B905  (Python 3.8)
        if len(set(names)) == len(names):
            return position
    return -1


def _product_reader(*paths: Path) -> Callable[[], float]:
    """Return a function that reads the product of the numbers in these files, in millionths."""

    def read_product() -> float:
        product = MICRO
        for path in paths:
            try:
                product *= int(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it does not hold a number"
                raise AgentError(
                    f"energy: {path} cannot be read ({reason}); "
                    "give this user permission to read it",
                    failure="configuration",
                ) from error
        return product

    return read_product
