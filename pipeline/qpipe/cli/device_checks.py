"""The check of a device, as `qpipe devices check` and `qpipe doctor` make it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qpipe.errors import DeviceError
    from qpipe.recipe.stage_call import Call
    from qpipe.storage.results import Store
    from qpipe.storage.rows import HealthRow
    from qpipe.types import Capabilities, Device, Finding

REQUIRED_BY_AGENT = frozenset({"connection", "python", "numpy", "folder"})
TIME_LENGTH = 16  # characters of a time in ISO 8601, down to minutes
STATE_OF_HEALTH: dict[str, Literal["ok", "warning", "bad"]] = {
    "good": "ok",
    "unknown": "warning",
    "bad": "bad",
}


def check_device(store: Store | None, name: str, call: Call) -> Iterator[Finding]:
    """Yield the findings of the driver's check, of the agent, and the health as stored.

    Without a store nothing is stored.
    """
    from qpipe.recipe import inventory
    from qpipe.types import Provisioned

    device = inventory.open_device(name, call)
    agent_can_start = True
    try:
        if isinstance(device, Provisioned):
            for finding in device.check():
                if finding.state == "bad" and finding.what in REQUIRED_BY_AGENT:
                    agent_can_start = False
                yield finding
        if agent_can_start:
            yield from _check_agent(store, device, call)
    finally:
        device.close()
    health = store.health(name) if store else None
    if health:
        yield _health_finding(health)


def _check_agent(store: Store | None, device: Device, call: Call) -> Iterator[Finding]:
    """Ask the agent for the capabilities of its device, and store them."""
    from qpipe.errors import BusyError, DeviceError
    from qpipe.recipe import inventory
    from qpipe.types import Finding

    try:
        capabilities = inventory.labelled(call, device.capabilities())
    except BusyError as error:
        yield Finding("holder", "warning", _reason(device, error))
    except DeviceError as error:
        yield Finding("agent", "bad", _reason(device, error))
    else:
        if store:
            store.save_device(device.name, call.name, capabilities)
        yield Finding("agent", "ok", "answers")
        yield Finding("cpu", "ok", _describe_cpu(capabilities))


def _reason(device: Device, error: DeviceError) -> str:
    """Return an error without the name of the device before it."""
    return str(error).removeprefix(f"{device.name}: ")


def _describe_cpu(capabilities: Capabilities) -> str:
    from qpipe.cli.device_entries import describe_integer_support

    parts = [
        capabilities.cpu,
        f"{capabilities.cores} cores",
        f"{capabilities.memory_mb:.0f} MB",
        describe_integer_support(capabilities.arch, capabilities.features),
    ]
    if capabilities.emulated:
        parts.append(f"emulated ({capabilities.emulated})")
    return ", ".join(part for part in parts if part)


def _health_finding(health: HealthRow) -> Finding:
    from qpipe.types import Finding

    since = health["since"][:TIME_LENGTH]
    text = f"{health['health']} since {since}Z: {health['why']}"
    if health["health"] == "bad":
        text += f"; clear it with: qpipe devices clear {health['device']}"
    return Finding("health", STATE_OF_HEALTH[health["health"]], text)
