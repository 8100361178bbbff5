"""qpipe devices clean."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from qpipe.cli.completions import complete_device
from qpipe.cli.device_reports import exit_with_failures
from qpipe.cli.inventory_devices import find_devices
from qpipe.cli.parameters import (
    DryRunOption,
    InventoryOption,
    JsonOption,
    KeepMbOption,
    OlderThanOption,
)
from qpipe.cli.tables import print_json, print_text

BYTES_PER_MB = 1e6
SECONDS_PER_DAY = 24 * 3600.0


class CleanedDevice(TypedDict):
    """What was freed on a device; None where it could not be cleaned."""

    name: str
    freed_mb: float | None
    dry_run: bool
    error: str | None


class CleanOptions(TypedDict, total=False):
    """What to remove; without options all that no run is using."""

    older_than_s: float
    keep_bytes: float
    dry_run: bool
    runtime: bool


def devices_clean(
    names: Annotated[
        list[str],
        typer.Argument(
            help="The devices to clean.", show_default=False, autocompletion=complete_device
        ),
    ],
    older_than: OlderThanOption = None,
    keep_mb: KeepMbOption = None,
    dry_run: DryRunOption = False,
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="Also remove the runtime that was installed by setup."),
    ] = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the files that qpipe stored on devices; a later run sends again what it needs.

    Files that a run is using are kept.
    """
    from qpipe.errors import DeviceError
    from qpipe.recipe import inventory as inventories

    options: CleanOptions = {}
    if older_than is not None:
        options["older_than_s"] = older_than * SECONDS_PER_DAY
    if keep_mb is not None:
        options["keep_bytes"] = keep_mb * BYTES_PER_MB
    if dry_run:
        options["dry_run"] = True
    if runtime:
        options["runtime"] = True
    cleaned: list[CleanedDevice] = []
    for name, call in find_devices(names, inventory).items():
        device = inventories.open_device(name, call)
        entry: CleanedDevice = {
            "name": name,
            "freed_mb": None,
            "dry_run": dry_run,
            "error": None,
        }
        try:
            entry["freed_mb"] = device.clean(**options) / BYTES_PER_MB
        except DeviceError as error:
            entry["error"] = str(error)
        finally:
            device.close()
        cleaned.append(entry)
    if as_json:
        print_json(cleaned)
    else:
        _print_freed(cleaned)
    exit_with_failures(entry["error"] for entry in cleaned if entry["error"])


def _print_freed(cleaned: list[CleanedDevice]) -> None:
    for entry in cleaned:
        if entry["freed_mb"] is not None:
            freed = "would be freed" if entry["dry_run"] else "freed"
            print_text(f"{entry['name']}: {entry['freed_mb']:.1f} MB {freed}")
