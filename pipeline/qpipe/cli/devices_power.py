"""qpipe devices power."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.device_events import POWER, current_user
from qpipe.cli.inventory_devices import find_device
from qpipe.cli.parameters import DEFAULT_DB, DbOption, DeviceArgument, InventoryOption
from qpipe.cli.tables import print_text
from qpipe.errors import BusyError, DeviceError, RecipeError, suggest

if TYPE_CHECKING:
    from qpipe.types import Device

ACTIONS = ("on", "off", "cycle")


def devices_power(
    name: DeviceArgument,
    action: Annotated[
        str,
        typer.Argument(metavar="on|off|cycle", help="What to do.", show_default=False),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Switch the power even if the device is in use; that work is lost."
        ),
    ] = False,
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Switch the power of a device, as the inventory says how, and wait until it follows."""
    from qpipe.engine.device_health import PowerSwitch
    from qpipe.recipe import inventory as inventories
    from qpipe.storage.results import Store

    if action not in ACTIONS:
        raise RecipeError(
            f"devices power {name}: action '{action}' is not known; {suggest(action, ACTIONS)}"
        )
    call = find_device(name, inventory)
    power = inventories.open_power(name, call)
    if power is None:
        raise DeviceError(
            f"{name}: the inventory has no power switch for it; add one beside its driver, "
            "such as power: {command: {off: ..., on: ...}}",
            failure="configuration",
        )
    device = inventories.open_device(name, call)
    started = time.monotonic()
    with Store(db) as store:

        def report(state: str) -> None:
            print_text(f"{name}: power {state}")
            why = f"by {current_user()}"
            if force:
                why += ", by force"
            store.record_event(name, event=POWER, now=state, why=why)

        try:
            switch = PowerSwitch(name, device, power, time.sleep, report)
            boot_id = None if action == "on" else _claim_device(device, force=force)
            if action == "cycle":
                switch.cycle(boot_id)
            elif action == "off":
                switch.switch_off()
            else:
                power.on()
                report("on")
                switch.await_answer()
        finally:
            device.close()
    result = "off, it does not answer any more" if action == "off" else "on, it answers"
    print_text(f"{name}: {result} ({time.monotonic() - started:.0f} s)")


def _claim_device(device: Device, *, force: bool) -> str | None:
    """Take the device, so that nobody else uses it from here on, and return its boot id.

    None for a device that does not answer, which may be switched too. Raise BusyError where it is
    in use, unless by force: the work there would be lost.
    """
    try:
        return device.capabilities().boot_id
    except BusyError as error:
        if not force:
            raise BusyError(f"{error}; wait for its end, or cut it off with --force") from None
    except DeviceError:
        pass
    return None
