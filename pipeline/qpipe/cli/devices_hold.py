"""qpipe devices hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from qpipe.cli.device_events import HOLD
from qpipe.cli.durations import parse_duration
from qpipe.cli.inventory_devices import open_device
from qpipe.cli.parameters import (
    DEFAULT_DB,
    DbOption,
    DeviceArgument,
    InventoryOption,
    JsonOption,
)
from qpipe.cli.tables import print_json, print_text


def devices_hold(
    name: DeviceArgument,
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long, such as 45m, 2h or 1d.")
    ] = "8h",
    reason: Annotated[str, typer.Option("--reason", help="The reason, shown to other users.")] = "",
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Keep all runs off a device, your own included, while you work on it by hand."""
    from qpipe.storage.results import Store

    seconds = parse_duration("--for", duration)
    with open_device(name, inventory) as device:
        hold = device.hold(seconds, reason)
    period = f"{hold.holder} since {hold.since} until {hold.until}"
    why = f"{period} ({reason})" if reason else period
    with Store(db) as store:
        store.record_event(name, event=HOLD, now="held", why=why)
    if as_json:
        print_json({"name": name, **asdict(hold)})
    else:
        print_text(f"{name}: held by {period}; end it with: qpipe devices release {name}")
