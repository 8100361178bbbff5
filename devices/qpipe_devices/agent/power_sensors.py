"""The sensors of power and energy that a device has, by the kernel's own names and units.

hwmon (hwmon/sysfs-interface, hwmon/ina2xx, hwmon/ina3221) has microwatts, millivolts and milliamperes; powercap
(power/powercap) has microjoules that begin anew at `max_energy_range_uj`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, List, NamedTuple, Sequence, Tuple  # noqa: UP035  (Python 3.8 on the board)

from .environment import number, text
from .failures import AgentError

MONITORS = re.compile(r"ina(2\d\d|2xx|3221)")  # power monitors, by the name of their driver
TOTAL = re.compile(r"(^|_)(VDD|5V)_IN$")  # a rail that feeds the others
PACKAGE = re.compile(r"package-[^/]*$")
# the ina3221 has three rails; its curr4 is their sum, its in4 to in7 are the voltages of the shunts
CHANNELS = {"ina3221": "curr[1-3]_input"}


class Rail(NamedTuple):
    """One channel of a sensor. `read` gives watts, or joules that begin anew at `wraps_at`."""

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None
    update_s: float | None = None  # how often the sensor has a new value, where it says


def rails(root: Path, source: str, wanted: Sequence[str]) -> Tuple[str, List[Rail]]:  # noqa: UP006
    """The sensor and the rails to add up: those `wanted`, else the one that feeds the others, else all.

    `source` is hwmon, rapl, or auto: the first that is there. AgentError where there is none.
    """
    kinds = {"hwmon": _hwmon, "rapl": _rapl}
    found = {kind: kinds[kind](root) for kind in kinds if source in (kind, "auto")}
    kind = next((kind for kind, own in found.items() if own), None)
    if kind is None:
        fix = "set source: command for a meter of your own, or take energy out of measure"
        raise AgentError(
            f"energy: this device has no sensor of {' or '.join(found)}; {fix}", "configuration"
        )
    own = {rail.name: rail for rail in found[kind]}
    missing = sorted(set(wanted) - own.keys())
    if missing:
        raise AgentError(
            f"energy: {kind} has no rail {missing[0]}; there is {', '.join(own)}", "configuration"
        )
    totals = [name for name in own if TOTAL.search(name)]
    package = [name for name in own if PACKAGE.match(name)]
    chosen = list(wanted) or totals[:1] or package or list(own)
    return kind, [own[name] for name in dict.fromkeys(chosen)]


def _hwmon(root: Path) -> List[Rail]:  # noqa: UP006
    """Power monitors: those that have a power in microwatts, else millivolts times milliamperes."""
    found = []
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        driver = text(sensor / "name") or ""
        if not MONITORS.fullmatch(driver):
            continue
        update = number(sensor / "update_interval")
        for current in sorted(sensor.glob(CHANNELS.get(driver, "curr[1-9]_input"))):
            which = current.name[4]
            place = _place(sensor)
            if number(sensor / f"in{which}_enable") == 0:
                continue
            label = (
                text(sensor / f"in{which}_label") or text(sensor / f"power{which}_label") or driver
            )
            power = sensor / f"power{which}_input"
            # in0 of the two-wire monitors is their shunt, in1 the bus; the ina3221 has the bus of rail n in inn
            read = (
                _scaled(1e-6, power)
                if power.is_file()
                else _scaled(1e-6, sensor / f"in{which}_input", current)
            )
            names = [label, f"{label} {which}", f"{label} {place}", f"{label} {place} {which}"]
            found.append((names, Rail(label, read, update_s=update / 1000 if update else None)))
    return _told_apart(found)


def _place(sensor: Path) -> str:
    """Where it is on its bus, such as 1-0040, which stays the same; else its number, which a boot may change."""
    device = sensor / "device"
    return device.resolve().name if device.is_symlink() else sensor.name


def _rapl(root: Path) -> List[Rail]:  # noqa: UP006
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        energy = zone / "energy_uj"
        most = number(zone / "max_energy_range_uj")
        name = text(zone / "name") or zone.name
        above = text(zone.with_name(zone.name.rpartition(":")[0]) / "name")
        if most:
            names = [name, f"{above}/{name}" if above else name, zone.name]
            found.append((names, Rail(name, _scaled(1e-6, energy), wraps_at=most * 1e-6)))
    return _told_apart(found)


def _told_apart(found: Sequence[Tuple[Sequence[str], Rail]]) -> List[Rail]:  # noqa: UP006
    """Each by the first of its names; those that share it by the first that makes them differ."""
    told = []
    for names, rail in found:
        sharing = [others for others, _ in found if others[0] == names[0]]
        forms = enumerate(zip(*sharing))  # noqa: B905  (Python 3.8)
        which = next((index for index, each in forms if len(set(each)) == len(sharing)), -1)
        told.append(rail._replace(name=names[which]))
    return told


def _scaled(unit: float, *paths: Path) -> Callable[[], float]:
    """Reads the product of the numbers in these files, in this unit."""

    def read() -> float:
        product = unit
        for path in paths:
            try:
                product *= int(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it holds no number"
                said = f"energy: {path} cannot be read ({why}); let this user read it"
                raise AgentError(said, "configuration") from error
        return product

    return read
