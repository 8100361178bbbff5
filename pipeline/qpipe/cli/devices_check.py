"""qpipe devices check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qpipe.cli.device_reports import exit_with_failures, print_finding
from qpipe.cli.inventory_devices import find_devices
from qpipe.cli.parameters import DEFAULT_DB, DbOption, InventoryOption, JsonOption
from qpipe.cli.tables import print_json

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


def devices_check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="The devices; by default all.", show_default=False),
    ] = None,
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Check devices: what is ready, and how to fix the rest; exit status 1 if one is not ready.

    The result is recorded: `qpipe devices list` shows it, and plans use it.
    """
    from qpipe.cli.device_entries import read_device_entry
    from qpipe.storage.results import Store

    failures = []
    entries = []
    with Store(db) as store:
        for name, call in find_devices(names or [], inventory).items():
            findings = []
            for finding in _check_device(store, name, call):
                findings.append(finding)
                if not as_json:
                    print_finding(name, finding)
            bad_findings = [finding for finding in findings if finding.state == "bad"]
            error = None
            if bad_findings:
                error = bad_findings[0].said
                failures.append(f"{name}: not ready: {bad_findings[0].what}: {error}")
            _record_check(store, name, findings)
            entries.append(
                {
                    **read_device_entry(store, name, call).to_json(),
                    "error": error,
                    "findings": [asdict(finding) for finding in findings],
                }
            )
    if as_json:
        print_json(entries)
    exit_with_failures(failures)


def _check_device(store: Store, name: str, call: Call) -> Iterator[Finding]:
    """Yield the findings of the driver's check, of the agent, and the health as stored."""
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
    health = store.health(name)
    if health:
        yield _health_finding(health)


def _check_agent(store: Store, device: Device, call: Call) -> Iterator[Finding]:
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


def _record_check(store: Store, name: str, findings: Sequence[Finding]) -> None:
    """Record in the audit trail: ready, busy (by whom) or not ready (why)."""
    from qpipe.cli.device_events import CHECK

    problems = [f"{finding.what}: {finding.said}" for finding in findings if finding.state == "bad"]
    holders = [finding.said for finding in findings if finding.what == "holder"]
    if problems:
        state = "not ready"
    elif holders:
        state = "busy"
    else:
        state = "ready"
    store.record_event(name, event=CHECK, now=state, why="; ".join(problems or holders))
