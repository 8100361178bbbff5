"""devices hold and release: a board for a human, who works at it without a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from qpipe.cli.printing import print_json, print_text
from qpipe.errors import RecipeError
from qpipe.recipe import inventory
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe.types import Device

# events of a device's audit trail
HOLD = "hold"
RELEASE = "release"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def hold(
    name: str, lasting: str, reason: str, inventory_file: Path | None, db: Path, as_json: bool
) -> None:
    """Keep all runs off a device for so long."""
    seconds = duration(lasting)
    with _opened(name, inventory_file) as device:
        held = device.hold(seconds, reason)
    why = f"{held.holder} since {held.since} until {held.until}" + (
        f" ({reason})" if reason else ""
    )
    with Store(db) as store:
        store.record_event(name, event=HOLD, now="held", why=why)
    if as_json:
        print_json({"name": name, **asdict(held)})
    else:
        fix = f"end it with: qpipe devices release {name}"
        print_text(f"{name}: held by {held.holder} since {held.since} until {held.until}; {fix}")


def release(name: str, force: bool, inventory_file: Path | None, db: Path, as_json: bool) -> None:
    """End a hold."""
    with _opened(name, inventory_file) as device:
        released = device.release(force=force)
    with Store(db) as store:
        store.record_event(name, event=RELEASE, now="released", why="by force" if force else "")
    if as_json:
        print_json({"name": name, "released": released})
    else:
        print_text(f"{name}: {'released' if released else 'nobody held it'}")


def duration(text: str) -> float:
    """Seconds of a number with its unit: 90s, 45m, 2h, 1.5d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) == 0:
        raise RecipeError(f"--for is '{text}'; give a number and s, m, h or d, such as 2h")
    return float(found[1]) * SECONDS[found[2]]


@contextmanager
def _opened(name: str, inventory_file: Path | None) -> Iterator[Device]:
    file = inventory.find_here(inventory_file)
    device = inventory.open_device(
        name, inventory.pick(inventory.load(file, registry.load()), name, file)
    )
    try:
        yield device
    finally:
        device.close()
