"""Which device of a pool a run uses: one that is there, and that nobody else uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from qpipe.engine.events import Notify
from qpipe.errors import BusyError, DeviceError
from qpipe.recipe import inventory
from qpipe.recipe.stage_call import Call
from qpipe.storage.results import Store
from qpipe.types import Leased


def choose_device(
    pool: str,
    candidates: Mapping[str, Call],
    store: Store,
    *,
    preferred: Collection[str],
    notify: Notify,
) -> str:
    """Return the device of a pool to use, the `preferred` before others.

    A device that is bad, does not answer or is in use is passed over, which is told. Where all are,
    return the first that is only in use, or else the first.
    """
    order = sorted(candidates, key=lambda name: name not in preferred)
    in_use: list[str] = []
    for name in order:
        try:
            _check_free(name, candidates[name], store)
        except DeviceError as error:
            notify(f"{pool}: {error}; passed over")
            if isinstance(error, BusyError):
                in_use.append(name)
        else:
            return name
    return [*in_use, *order][0]


def _check_free(name: str, call: Call, store: Store) -> None:
    """Raise DeviceError where a device cannot be used at once."""
    health = store.health(name)
    if health is not None and health["health"] == "bad":
        raise DeviceError(f"{name} is bad: {health['why']}")
    device = inventory.open_device(name, call)
    if not isinstance(device, Leased):
        return
    try:
        holder = device.look().holder
    finally:
        with suppress(DeviceError):
            device.close()
    if holder:
        raise BusyError(f"{name}: busy: held by {holder}")
