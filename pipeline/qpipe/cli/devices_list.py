"""qpipe devices list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpipe.cli.inventory_devices import find_devices
from qpipe.cli.parameters import DEFAULT_DB, DbOption, InventoryOption, JsonOption
from qpipe.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from qpipe.cli.device_entries import DeviceEntry

COLUMNS = (
    "name",
    "driver",
    "arch",
    "cpu",
    "cores",
    "memory MB",
    "integers",
    "runtimes",
    "tags",
    "health",
    "holder",
    "checked",
)
TIME_LENGTH = 16  # characters of a time in ISO 8601, down to minutes


def devices_list(
    inventory: InventoryOption = None, db: DbOption = DEFAULT_DB, as_json: JsonOption = False
) -> None:
    """List the devices of the inventory, with their state at the last check."""
    from qpipe.cli.device_entries import read_device_entry
    from qpipe.storage.results import Store

    devices = find_devices([], inventory)
    with Store(db) as store:
        entries = [read_device_entry(store, name, call) for name, call in devices.items()]
    if as_json:
        print_json([entry.to_json() for entry in entries])
    elif entries:
        rows = [_cells(entry) for entry in entries]
        print_table(COLUMNS, rows, right=("cores", "memory MB"))


def _cells(entry: DeviceEntry) -> list[object]:
    """Return a device as text, a cell for each of COLUMNS."""
    checked = (entry.checked or "never")[:TIME_LENGTH]
    return [
        entry.name,
        entry.driver,
        *_capability_cells(entry),
        ", ".join(entry.tags),
        entry.health,
        entry.holder,
        checked,
    ]


def _capability_cells(entry: DeviceEntry) -> list[object]:
    """Return the cells from arch to runtimes; empty where the device was never checked."""
    from qpipe.cli.device_entries import describe_integer_support

    capabilities = entry.capabilities
    if capabilities is None:
        return ["", "", "", "", "", ""]
    cpu = capabilities.cpu
    if capabilities.emulated:
        cpu = f"{cpu} (emulated: {capabilities.emulated})".lstrip()
    runtimes = ", ".join(
        f"{runtime} {version}" for runtime, version in capabilities.runtimes.items()
    )
    return [
        capabilities.arch,
        cpu,
        capabilities.cores,
        f"{capabilities.memory_mb:.0f}",
        describe_integer_support(capabilities.arch, capabilities.features),
        runtimes or f"none: qpipe devices setup {entry.name}",
    ]
