"""qpipe devices release."""

from __future__ import annotations

from typing import Annotated

import typer

from qpipe.cli.device_events import RELEASE
from qpipe.cli.inventory_devices import open_device
from qpipe.cli.parameters import (
    DEFAULT_DB,
    DbOption,
    DeviceArgument,
    InventoryOption,
    JsonOption,
)
from qpipe.cli.tables import print_json, print_text


def devices_release(
    name: DeviceArgument,
    force: Annotated[
        bool, typer.Option("--force", help="End the hold even if it is someone else's.")
    ] = False,
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """End a hold, so that runs can use the device again."""
    from qpipe.storage.results import Store

    with open_device(name, inventory) as device:
        was_held = device.release(force=force)
    with Store(db) as store:
        why = "by force" if force else ""
        store.record_event(name, event=RELEASE, now="released", why=why)
    if as_json:
        print_json({"name": name, "released": was_held})
    elif was_held:
        print_text(f"{name}: released")
    else:
        print_text(f"{name}: was not held")
