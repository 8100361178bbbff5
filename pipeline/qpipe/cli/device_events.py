"""The events that commands write into a device's audit trail, and what they say of its holder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpipe.storage.results import Store

CHECK = "check"
HOLD = "hold"
RELEASE = "release"
POWER = "power"
HEALTH = "health"
BUSY_PREFIX = "busy: held by "


def last_known_holder(store: Store, device: str) -> str | None:
    """Return who held a device at the last check, hold or release from here; None where nobody."""
    for event in reversed(store.events(device)):
        if event["event"] in (CHECK, HOLD, RELEASE):
            is_held = event["now"] in ("busy", "held")
            return event["why"].removeprefix(BUSY_PREFIX) if is_held else None
    return None


def current_user() -> str:
    """Return user@host of this process."""
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"
