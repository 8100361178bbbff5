"""The events that commands write into a device's audit trail, and what they say of its holder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpipe.storage.results import Store
    from qpipe.storage.rows import LeaseRow

CHECK = "check"
HOLD = "hold"
RELEASE = "release"
POWER = "power"
HEALTH = "health"
BUSY_PREFIX = "busy: held by "


def last_known_holder(store: Store, device: str) -> str | None:
    """Return which run of this database has a device now, and for which step.

    Where none has, return who held the device at the last check, hold or release from here; None
    where nobody did.
    """
    lease = _current_lease(store, device)
    if lease is not None:
        recipe = Path(store.run(lease["run"])["recipe_path"]).name
        since = f"{lease['since'][:16]}Z"
        return f"run {lease['run']} of {recipe}, {lease['step']}, since {since}"
    for event in reversed(store.events(device)):
        if event["event"] in (CHECK, HOLD, RELEASE):
            is_held = event["now"] in ("busy", "held")
            return event["why"].removeprefix(BUSY_PREFIX) if is_held else None
    return None


def _current_lease(store: Store, device: str) -> LeaseRow | None:
    """Return the lease of a run that is in progress; None where there is none."""
    from qpipe.engine.run_lock import is_carried_out
    from qpipe.storage.workspace import run_folder

    for lease in reversed(store.leases(device)):
        if lease["until"] is None and is_carried_out(run_folder(store.path, lease["run"])):
            return lease
    return None


def current_user() -> str:
    """Return user@host of this process."""
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"
