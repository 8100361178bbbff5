"""qpipe doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    InventoryOption,
    JsonOption,
)
from qpipe.cli.tables import print_json, print_text

if TYPE_CHECKING:
    from pathlib import Path

    from qpipe.types import Finding

WORST_FIRST = ("bad", "warning", "ok")


def doctor(
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Whether to check the devices, too.")
    ] = True,
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Check machine, extras, plugins, workspace and devices, and say how to fix what is wrong.

    Exit status 1 where something is bad.
    """
    from qpipe.cli.doctor_checks import check_extras, check_machine, check_plugins, check_workspace

    areas = {
        "machine": check_machine(),
        "extras": check_extras(),
        "plugins": check_plugins(),
        "workspace": check_workspace(db, cache),
    }
    if devices:
        areas["devices"] = _check_devices(inventory, db)
    entries = []
    for area, findings in areas.items():
        for finding in findings:
            entries.append(
                {
                    "area": area,
                    "state": finding.state,
                    "what": finding.what,
                    "said": finding.said,
                }
            )
            if not as_json:
                print_text(f"{area:9} {finding.state:7} {finding.what:18} {finding.said}")
    states = {entry["state"] for entry in entries}
    state = next(state for state in WORST_FIRST if state in states)
    if as_json:
        from qpipe.report.json_documents import DOCTOR_SCHEMA

        print_json({"schema": DOCTOR_SCHEMA, "state": state, "findings": entries})
    if state == "bad":
        sys.exit(1)


def _check_devices(inventory: Path | None, db: Path) -> Iterator[Finding]:
    """Yield a finding for each device of the inventory: ready, or the first thing that is not."""
    from qpipe.cli.device_checks import check_device
    from qpipe.cli.inventory_devices import find_devices
    from qpipe.errors import QpipeError
    from qpipe.storage.results import Store
    from qpipe.types import Finding

    try:
        calls = find_devices([], inventory)
    except QpipeError as error:
        yield Finding("devices.yaml", "bad", str(error))
        return
    with ExitStack() as stack:
        store = None
        if db.exists():
            try:
                store = stack.enter_context(Store(db, create=False))
            except QpipeError:  # which the check of the workspace says
                return
        for name, call in calls.items():
            findings = list(check_device(store, name, call))
            problems = [finding for finding in findings if finding.state != "ok"]
            for problem in problems:
                yield Finding(name, problem.state, f"{problem.what}: {problem.said}")
            if not problems:
                yield Finding(name, "ok", "ready")
