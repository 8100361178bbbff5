"""qpipe devices log."""

from __future__ import annotations

from qpipe.cli.parameters import DEFAULT_DB, DbOption, DeviceArgument, JsonOption
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.errors import QpipeError, suggest
from qpipe.storage.workspace import open_results

COLUMNS = ("at", "what", "was", "now", "why", "during")
TIME_LENGTH = 19  # characters of a time in ISO 8601, down to seconds


def devices_log(
    name: DeviceArgument, db: DbOption = DEFAULT_DB, as_json: JsonOption = False
) -> None:
    """Show the history of a device: its health, checks, holds and power, with the reasons."""
    with open_results(db) as store:
        events = store.events(name)
        known_devices = store.device_names()
    if name not in known_devices:
        raise QpipeError(
            f"{name}: there are no records of this device; {suggest(name, known_devices)}"
        )
    if as_json:
        print_json(events)
        return
    if not events:
        print_text(f"{name}: nothing has happened to this device")
        return
    rows = []
    for event in events:
        time = event["at"][:TIME_LENGTH]
        during = " ".join(part for part in (event["during"], event["step"]) if part)
        rows.append((time, event["event"], event["was"], event["now"], event["why"], during))
    print_table(COLUMNS, rows)
