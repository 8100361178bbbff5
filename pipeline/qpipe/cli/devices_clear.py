"""qpipe devices clear."""

from __future__ import annotations

from typing import Annotated

import typer

from qpipe.cli.device_events import HEALTH, current_user
from qpipe.cli.parameters import DEFAULT_DB, DbOption, DeviceArgument, JsonOption
from qpipe.cli.tables import print_json, print_text
from qpipe.errors import QpipeError
from qpipe.storage.workspace import open_results

TIME_LENGTH = 16  # characters of a time in ISO 8601, down to minutes


def devices_clear(
    name: DeviceArgument,
    note: Annotated[
        str, typer.Option("--note", help="What was done about it, for the log of the device.")
    ] = "",
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Let runs use a device again that is marked as bad; the next run checks it first."""
    with open_results(db) as store:
        health = store.health(name)
        if health is None:
            raise QpipeError(
                f"{name}: no run has used this device; see the devices with: qpipe devices list"
            )
        was_bad = health["health"] == "bad"
        if was_bad:
            why = f"cleared by {current_user()}"
            if note:
                why += f": {note}"
            store.record_event(name, event=HEALTH, was="bad", now="unknown", why=why)
        current_health = store.health(name)
    if as_json:
        print_json(current_health)
    elif was_bad:
        since = health["since"][:TIME_LENGTH]
        print_text(f"{name}: cleared; it was bad since {since}Z: {health['why']}")
    else:
        print_text(f"{name}: its health is {health['health']}; there is nothing to clear")
