"""The devices of the inventory that a command was given by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from qpipe.recipe.stage_call import Call
    from qpipe.types import Device


def find_devices(names: Sequence[str], inventory_file: Path | None) -> dict[str, Call]:
    """Return the devices of these names, or all where there are no names.

    Raise RecipeError for a name that is not in the inventory.
    """
    from qpipe.recipe import inventory
    from qpipe.stages import registry

    file = inventory.find_here(inventory_file)
    devices = inventory.load(file, registry.load())
    return {name: inventory.pick(devices, name, file) for name in names or devices}


def find_device(name: str, inventory_file: Path | None) -> Call:
    """Return the device of that name; raise RecipeError where the inventory has none."""
    return find_devices([name], inventory_file)[name]


@contextmanager
def open_device(name: str, inventory_file: Path | None) -> Iterator[Device]:
    """Open a device of the inventory, and close it at the end."""
    from qpipe.recipe import inventory

    device = inventory.open_device(name, find_device(name, inventory_file))
    try:
        yield device
    finally:
        device.close()
