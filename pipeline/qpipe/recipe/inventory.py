"""The inventory of devices, devices.yaml: read and checked; the device `local` always exists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from qpipe.digests import digest_text
from qpipe.errors import RecipeError, shown, suggest
from qpipe.recipe import pools, yaml_document
from qpipe.recipe.stage_call import Call, CallReader
from qpipe.recipe.yaml_document import Document
from qpipe.stages.options import check, options
from qpipe.stages.registry import DEMANDS, Registry
from qpipe.types import Capabilities, Device, Emulation, Power

FILE = "devices.yaml"
LOCAL = "local"
# settings that an entry may have beside its driver
COMPANIONS = ("target", "emulated", "power", "tags")


def find(path: Path | None, recipe_folder: Path | None = None) -> Path | None:
    """Return `path`, or the inventory beside the recipe or in the working folder."""
    if path:
        return path
    for folder in (recipe_folder, Path.cwd()):
        if folder and (folder / FILE).is_file():
            return folder / FILE
    return None


def find_here(path: Path | None) -> Path | None:
    """Return the inventory of a command without a recipe.

    That is `path`, or the one in the working folder, or in its folder `recipes`.
    """
    return find(path) or find(None, Path("recipes"))


def load(path: Path | None, plugins: Registry) -> dict[str, Call]:
    """Return the devices of an inventory by name, options checked.

    `local` is added unless the inventory has a device of that name; without a file it is all.
    """
    devices: dict[str, Call] = {}
    if path:
        source = yaml_document.read(path)
        devices = _read_devices(source, plugins)
    if LOCAL not in devices and LOCAL in plugins.devices:
        stage = plugins.device(LOCAL)
        devices[LOCAL] = Call(stage, check(stage.function, {}, LOCAL))
    return devices


def _read_devices(source: Document, plugins: Registry) -> dict[str, Call]:
    root = yaml_document.substitute(source, {}, skip="")
    if not isinstance(root, dict):
        example = "board: {ssh: {host: 10.0.0.7}}"
        reason = "an inventory is a map of device names to drivers"
        raise RecipeError(f"{source.at()}: {reason}, such as {example}")
    reader = CallReader(source, plugins)
    devices: dict[str, Call] = {}
    for name, entry in root.items():
        yaml_document.checked_name(name, source.at(name), "device")
        devices[name] = _read_device(name, entry, reader)
    return devices


def _read_device(name: str, entry: Any, reader: CallReader) -> Call:
    source = reader.source
    written_call, companions = reader.split_companions(entry, COMPANIONS)
    _check_keys(written_call, source, name, reader.plugins)
    driver, written_options = reader.name_and_options(written_call, source.at(name), "device")
    stage = reader.plugins.device(driver, source.at(name))
    settings: dict[str, Any] = {"target": _demands(companions.get("target", {}), source, name)}
    if "emulated" in companions:
        settings["emulated"] = _emulation(companions["emulated"], source, name)
    if "power" in companions:
        settings["power"] = _power(companions["power"], reader, name)
    if "tags" in companions:
        settings["tags"] = pools.read_tags(companions["tags"], source.at(name, "tags"))
    return Call(stage, reader.options(stage, written_options, (name, driver)), beside=settings)


def _check_keys(entry: Any, source: Document, device: str, plugins: Registry) -> None:
    """Raise RecipeError for a key that is neither a driver nor a setting beside one."""
    if not isinstance(entry, dict):
        return
    for key in entry:
        if key in plugins.devices:
            continue
        drivers = [
            driver for driver, stage in plugins.devices.items() if key in options(stage.function)
        ]
        if drivers:
            fix = f"write {{{drivers[-1]}: {{{key}: ...}}}}"
        else:
            fix = suggest(str(key), [*plugins.devices, *COMPANIONS])
        where = source.at(device, key)
        raise RecipeError(f"{where}: '{key}' is neither a driver nor a setting of a device; {fix}")


def _power(value: Any, reader: CallReader, device: str) -> Call:
    """Read the power switch of a device, with its options."""
    where = reader.source.at(device, "power")
    name, written_options = reader.name_and_options(value, where, "power")
    stage = reader.plugins.power(name, where)
    return Call(stage, reader.options(stage, written_options, (device, "power", name)))


def _demands(value: Any, source: Document, device: str) -> dict[str, bool]:
    """Read the target of a device, which overrides what the device reports."""
    if not isinstance(value, dict):
        where = source.at(device, "target")
        example = "{symmetric_only: true}"
        raise RecipeError(f"{where}: target is {value!r}; give a map such as {example}")
    for name, demand in value.items():
        where = source.at(device, "target", name)
        if name not in DEMANDS:
            raise RecipeError(f"{where}: target has no '{name}'; {suggest(name, DEMANDS)}")
        if not isinstance(demand, bool):
            raise RecipeError(f"{where}: target {name} is {demand!r}; it is true or false")
    return value


def _emulation(value: Any, source: Document, device: str) -> str | None:
    """Read whether a device is emulated, and what its clock counts."""
    if value not in get_args(Emulation) and value is not False:
        where = source.at(device, "emulated")
        fix = (
            "it is wall (its clock is that of this machine), instructions (it counts them), "
            "or false"
        )
        raise RecipeError(f"{where}: emulated is {value!r}; {fix}")
    return value or None


def labelled(call: Call, reported: Capabilities) -> Capabilities:
    """Return what a device reported, with the inventory's word on whether it is emulated.

    Results of an emulator stand for no board, nor for another kind of emulator: the fingerprint
    differs.
    """
    emulated = call.beside.get("emulated", reported.emulated)
    if not emulated:
        return replace(reported, emulated=None)
    identity = f"{reported.fingerprint} {emulated}"
    fingerprint = digest_text(identity)
    return replace(reported, emulated=emulated, fingerprint=fingerprint)


def pick(devices: dict[str, Call], name: str, inventory: Path | None) -> Call:
    """Return the device of that name; raise RecipeError that shows where to add it."""
    if name in devices:
        return devices[name]
    place = shown(inventory) if inventory else FILE
    example = f"{name}: {{ssh: {{host: ADDRESS}}}}"
    raise RecipeError(f"{place}: no device '{name}'; {suggest(name, devices)}; add it as {example}")


def open_device(name: str, call: Call) -> Device:
    """Return the device; it connects when it is first used."""
    device: Device = call.stage.function(name, **call.resolved())
    return device


def open_power(name: str, call: Call) -> Power | None:
    """Return the power switch of the device, where the inventory names one."""
    power_call: Call | None = call.beside.get("power")
    if power_call is None:
        return None
    power: Power = power_call.stage.function(name, **power_call.resolved())
    return power
