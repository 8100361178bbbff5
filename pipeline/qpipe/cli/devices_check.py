"""qpipe devices check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.completions import complete_device
from qpipe.cli.device_checks import check_device
from qpipe.cli.device_reports import exit_with_failures, print_finding
from qpipe.cli.inventory_devices import find_devices
from qpipe.cli.parameters import DEFAULT_DB, DbOption, InventoryOption, JsonOption
from qpipe.cli.tables import print_json

if TYPE_CHECKING:
    from qpipe.storage.results import Store
    from qpipe.types import Finding


def devices_check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="The devices; by default all.", show_default=False, autocompletion=complete_device
        ),
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
            for finding in check_device(store, name, call):
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
