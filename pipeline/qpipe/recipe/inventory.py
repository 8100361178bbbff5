"""devices.yaml -> the devices one can name; `local` always exists."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from qpipe.errors import RecipeError, suggest
from qpipe.recipe import yaml_document
from qpipe.recipe.stage_call import Call, CallReader
from qpipe.recipe.yaml_document import Document
from qpipe.stages.options import check, options
from qpipe.stages.registry import DEMANDS, Registry
from qpipe.types import Capabilities, Device, Emulation, Power

FILE = "devices.yaml"
LOCAL = "local"
BESIDE = ("target", "emulated", "power")  # what an entry may say of a device beside its driver


def find(given: Path | None, beside: Path | None = None) -> Path | None:
    """The inventory to use: the one given, the one beside the recipe, the one in the working directory."""
    if given:
        return given
    places = [folder / FILE for folder in (beside, Path.cwd()) if folder]
    return next((place for place in places if place.is_file()), None)


def find_here(given: Path | None) -> Path | None:
    """The inventory of a command that has no recipe: the one given, the one here, the one of the recipes here."""
    return find(given) or find(None, Path("recipes"))


def load(path: Path | None, plugins: Registry) -> dict[str, Call]:
    """The devices of an inventory by name, options checked; {} with only `local` where there is no file."""
    devices: dict[str, Call] = {}
    if path:
        source = yaml_document.read(path)
        root = yaml_document.substitute(source, {}, skip="")
        if not isinstance(root, dict):
            example = "board: {ssh: {host: 10.0.0.7}}"
            raise RecipeError(
                f"{source.at()}: an inventory is a map of device names to drivers, such as {example}"
            )
        reader = CallReader(source, plugins)
        for name, value in root.items():
            yaml_document.name(name, source.at(name), "device")
            value, beside = reader.accompanied(value, BESIDE)
            _check_driver(value, source, name, plugins)
            driver, given = reader.named(value, source.at(name), "device")
            stage = plugins.device(driver, source.at(name))
            own: dict[str, Any] = {"target": _demands(beside.get("target", {}), source, name)}
            own |= _emulation(beside, source, name)
            if "power" in beside:
                own["power"] = _power(beside["power"], reader, source, name)
            devices[name] = Call(stage, reader.options(stage, given, (name, driver)), beside=own)
    if LOCAL not in devices and LOCAL in plugins.devices:
        stage = plugins.device(LOCAL)
        devices[LOCAL] = Call(stage, check(stage.function, {}, LOCAL))
    return devices


def _check_driver(value: Any, source: Document, device: str, plugins: Registry) -> None:
    """RecipeError for a key that is neither a driver nor may stand beside one."""
    for key in value if isinstance(value, dict) else ():
        if key not in plugins.devices:
            owners = [
                name for name, stage in plugins.devices.items() if key in options(stage.function)
            ]
            known = suggest(str(key), [*plugins.devices, *BESIDE])
            fix = f"write {{{owners[-1]}: {{{key}: ...}}}}" if owners else known
            where = source.at(device, key)
            raise RecipeError(
                f"{where}: '{key}' is no driver, and nothing that stands beside one; {fix}"
            )


def _power(given: Any, reader: CallReader, source: Document, device: str) -> Call:
    """What the inventory says of a device's current: a way to switch it, with its options."""
    where = source.at(device, "power")
    name, options = reader.named(given, where, "power")
    stage = reader.plugins.power(name, where)
    return Call(stage, reader.options(stage, options, (device, "power", name)))


def _demands(given: Any, source: Document, device: str) -> dict[str, bool]:
    """What the inventory says of a device's target, over what is found."""
    example = "{symmetric_only: true}"
    if not isinstance(given, dict):
        raise RecipeError(
            f"{source.at(device, 'target')}: target is {given!r}; give a map such as {example}"
        )
    for name, value in given.items():
        where = source.at(device, "target", name)
        if name not in DEMANDS:
            raise RecipeError(f"{where}: target has no '{name}'; {suggest(name, DEMANDS)}")
        if not isinstance(value, bool):
            raise RecipeError(f"{where}: target {name} is {value!r}; it is true or false")
    return given


def _emulation(beside: dict[str, Any], source: Document, device: str) -> dict[str, Any]:
    """What the inventory says of whether a device is emulated, where it says anything."""
    if "emulated" not in beside:
        return {}
    given = beside["emulated"]
    if given not in get_args(Emulation) and given is not False:
        what = "wall (its clock is that of this machine), instructions (it counts them), or false"
        raise RecipeError(f"{source.at(device, 'emulated')}: emulated is {given!r}; it is {what}")
    return {"emulated": given or None}


def labelled(call: Call, found: Capabilities) -> Capabilities:
    """What a device said of itself, with the inventory's word on whether it is emulated, which is over its own.

    What is measured on an emulator stands for no board, nor for another kind of emulator: no fingerprint in common.
    """
    emulated = call.beside.get("emulated", found.emulated)
    if not emulated:
        return replace(found, emulated=None)
    fingerprint = hashlib.sha256(f"{found.fingerprint} {emulated}".encode()).hexdigest()
    return replace(found, emulated=emulated, fingerprint=fingerprint)


def pick(devices: dict[str, Call], name: str, inventory: Path | None) -> Call:
    """The device of that name; RecipeError that says where it should be."""
    if name in devices:
        return devices[name]
    place = yaml_document.shown(inventory) if inventory else FILE
    example = f"{name}: {{ssh: {{host: ADDRESS}}}}"
    raise RecipeError(f"{place}: no device '{name}'; {suggest(name, devices)}; add it as {example}")


def open_device(name: str, call: Call) -> Device:
    """Make the device; it connects when first used."""
    device: Device = call.stage.function(name, **call.resolved())
    return device


def open_power(name: str, call: Call) -> Power | None:
    """What switches the device, where the inventory names something."""
    own: Call | None = call.beside.get("power")
    if own is None:
        return None
    power: Power = own.stage.function(name, **own.resolved())
    return power
