"""devices clear, log and power: what a human does about a device that failed."""

from __future__ import annotations

import getpass
import socket
import time
from functools import partial
from pathlib import Path

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.cli.results import open_results
from qpipe.engine import device_health
from qpipe.errors import BusyError, DeviceError, QpipeError, RecipeError, suggest
from qpipe.recipe import inventory
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe.types import Device

ACTIONS = ("on", "off", "cycle")


def clear(name: str, note: str, db: Path, as_json: bool) -> None:
    """Make a bad device unknown: the first contact of the next run is its check."""
    with open_results(db) as store:
        found = store.health(name)
        if found is None:
            raise QpipeError(
                f"{name}: no run has used it; see the devices with: qpipe devices list"
            )
        if found["health"] == "bad":
            why = f"cleared by {_who()}" + (f": {note}" if note else "")
            store.record_event(name, event="health", was="bad", now="unknown", why=why)
        now = store.health(name)
    if as_json:
        print_json(now)
    elif found["health"] == "bad":
        print_text(f"{name}: cleared, it was bad since {found['since'][:16]}Z: {found['why']}")
    else:
        print_text(f"{name}: it is {found['health']}, there is nothing to clear")


def log(name: str, db: Path, as_json: bool) -> None:
    """Print the audit trail of a device, oldest first."""
    with open_results(db) as store:
        events = store.events(name)
        known = store.device_names()
    if name not in known:
        raise QpipeError(
            f"{name}: nothing was ever done with such a device; {suggest(name, known)}"
        )
    if as_json:
        print_json(events)
        return
    if not events:
        print_text(f"{name}: nothing has happened to it")
        return
    rows = [
        (
            e["at"][:19],
            e["event"],
            e["was"],
            e["now"],
            e["why"],
            " ".join(filter(None, (e["during"], e["step"]))),
        )
        for e in events
    ]
    print_table(("at", "what", "was", "now", "why", "during"), rows)


def power(name: str, action: str, force: bool, inventory_file: Path | None, db: Path) -> None:
    """Switch a device off, on, or both, and see that it goes and comes. BusyError where somebody has it whose work that
    would end, unless by force."""
    if action not in ACTIONS:
        raise RecipeError(f"devices power {name}: no '{action}'; {suggest(action, ACTIONS)}")
    file = inventory.find_here(inventory_file)
    call = inventory.pick(inventory.load(file, registry.load()), name, file)
    switch = inventory.open_power(name, call)
    if switch is None:
        fix = "add, beside its driver, one such as power: {command: {off: ..., on: ...}}"
        raise DeviceError(
            f"{name}: the inventory has no power for it; {fix}", failure="configuration"
        )
    device = inventory.open_device(name, call)
    began = time.monotonic()
    with Store(db) as store:
        told = partial(_switched, store, name, ", by force" if force else "")
        try:
            before = None if action == "on" else _asked(device, force)
            if action == "cycle":
                device_health.cycle(name, device, switch, time.sleep, told, before)
            elif action == "off":
                device_health.switch_off(name, device, switch, time.sleep, told)
            else:
                switch.on()
                told("on")
                device_health.await_answer(name, device, switch, time.sleep)
        finally:
            device.close()
    said = "off, it does not answer any more" if action == "off" else "on, it answers"
    print_text(f"{name}: {said} ({time.monotonic() - began:.0f} s)")


def _asked(device: Device, force: bool) -> str | None:
    """Its boot_id, where it answers: a dead one may be switched. From here on nobody else has it."""
    try:
        return device.capabilities().boot_id
    except BusyError as error:
        if not force:
            raise BusyError(f"{error}; wait for its end, or cut it off with --force") from None
    except DeviceError:
        pass
    return None


def _switched(store: Store, name: str, how: str, now: str) -> None:
    print_text(f"{name}: power {now}")
    store.record_event(name, event="power", now=now, why=f"by {_who()}{how}")


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
