"""devices.yaml -> the devices one can name; `local` always exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qpipe import document
from qpipe.call import Call, CallReader
from qpipe.document import Document
from qpipe.errors import RecipeError, suggest
from qpipe.options import check
from qpipe.registry import DEMANDS, Registry
from qpipe.types import Device

FILE = "devices.yaml"
LOCAL = "local"


def find(given: Path | None, beside: Path | None = None) -> Path | None:
    """The inventory to use: the one given, the one beside the recipe, the one in the working directory."""
    if given:
        return given
    places = [folder / FILE for folder in (beside, Path.cwd()) if folder]
    return next((place for place in places if place.is_file()), None)


def load(path: Path | None, plugins: Registry) -> dict[str, Call]:
    """The devices of an inventory by name, options checked; {} with only `local` where there is no file."""
    devices: dict[str, Call] = {}
    if path:
        source = document.read(path)
        root = document.substitute(source, {}, skip="")
        if not isinstance(root, dict):
            example = "board: {ssh: {host: 10.0.0.7}}"
            raise RecipeError(f"{source.at()}: an inventory is a map of device names to drivers, such as {example}")
        reader = CallReader(source, plugins)
        for name, value in root.items():
            document.name(name, source.at(name), "device")
            value, beside = reader.accompanied(value, ("target",))
            driver, given = reader.named(value, source.at(name), "device")
            stage = plugins.device(driver, source.at(name))
            target = {"target": _demands(beside.get("target", {}), source, name)}
            devices[name] = Call(stage, reader.options(stage, given, (name, driver)), beside=target)
    if LOCAL not in devices and LOCAL in plugins.devices:
        stage = plugins.device(LOCAL)
        devices[LOCAL] = Call(stage, check(stage.function, {}, LOCAL))
    return devices


def _demands(given: Any, source: Document, device: str) -> dict[str, bool]:
    """What the inventory says of a device's target, over what is found."""
    example = "{symmetric_only: true}"
    if not isinstance(given, dict):
        raise RecipeError(f"{source.at(device, 'target')}: target is {given!r}; give a map such as {example}")
    for name, value in given.items():
        where = source.at(device, "target", name)
        if name not in DEMANDS:
            raise RecipeError(f"{where}: target has no '{name}'; {suggest(name, DEMANDS)}")
        if not isinstance(value, bool):
            raise RecipeError(f"{where}: target {name} is {value!r}; it is true or false")
    return given


def pick(devices: dict[str, Call], name: str, inventory: Path | None) -> Call:
    """The device of that name; RecipeError that says where it should be."""
    if name in devices:
        return devices[name]
    place = document.shown(inventory) if inventory else FILE
    example = f"{name}: {{ssh: {{host: ADDRESS}}}}"
    raise RecipeError(f"{place}: no device '{name}'; {suggest(name, devices)}; add it as {example}")


def open_device(name: str, call: Call) -> Device:
    """Make the device; it connects when first used."""
    device: Device = call.stage.function(name, **call.resolved())
    return device
