"""qpipe devices setup."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpipe.cli.completions import complete_device
from qpipe.cli.device_reports import exit_with_failures, print_finding
from qpipe.cli.inventory_devices import find_device
from qpipe.cli.parameters import DEFAULT_DB, DbOption, InventoryOption, JsonOption
from qpipe.cli.tables import print_json, print_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.types import Device, Finding, Provisioned


def devices_setup(
    name: Annotated[
        str,
        typer.Argument(
            help="The device; it needs only Python 3.8 or newer.",
            show_default=False,
            autocompletion=complete_device,
        ),
    ],
    wheels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Take the wheels from this folder only.",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[==VERSION]",
            help="The runtime to install. By default onnxruntime, no newer than the version "
            "on this machine.",
        ),
    ] = None,
    use_system_runtime: Annotated[
        bool,
        typer.Option(
            "--use-system-runtime",
            help="Install nothing; use the runtime that is installed on the device.",
        ),
    ] = False,
    inventory: InventoryOption = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Install numpy and a runtime on a device, and test them with a tiny int8 network.

    pip downloads the wheels on this machine; the device needs no access to the internet.
    """
    from qpipe.errors import DeviceError
    from qpipe.recipe import inventory as inventories
    from qpipe.storage.results import Store

    if use_system_runtime and (wheels or runtime):
        raise typer.BadParameter(
            "--use-system-runtime installs nothing: leave out --wheels and --runtime"
        )
    call = find_device(name, inventory)
    device = inventories.open_device(name, call)
    findings: list[Finding] = []
    error_text = None
    try:
        steps = _provisioned(device, kind=call.name).setup(
            wheels=wheels, runtime=runtime, system_runtime=use_system_runtime
        )
        for finding in steps:
            findings.append(finding)
            if not as_json:
                print_finding(name, finding)
        capabilities = inventories.labelled(call, device.capabilities())
        with Store(db) as store:
            store.save_device(name, call.name, capabilities)
    except DeviceError as error:
        error_text = str(error)
    finally:
        device.close()
    if as_json:
        print_json(_setup_json(name, findings, error_text))
    elif error_text is None:
        print_text(f"{name}: ready")
    exit_with_failures([] if error_text is None else [error_text])


def _provisioned(device: Device, *, kind: str) -> Provisioned:
    """Return the device as one that can be set up; raise DeviceError for one that cannot."""
    from qpipe.errors import DeviceError
    from qpipe.types import Provisioned

    if not isinstance(device, Provisioned):
        raise DeviceError(
            f"{device.name}: a device of kind {kind} cannot be set up by qpipe",
            failure="configuration",
        )
    return device


def _setup_json(name: str, findings: Sequence[Finding], error: str | None) -> dict[str, Any]:
    sent = [finding for finding in findings if finding.what == "sent"]
    return {
        "name": name,
        "ready": error is None,
        "sent_bytes": sum(finding.facts.get("bytes", 0) for finding in sent),
        "steps": [asdict(finding) for finding in findings],
        "error": error,
    }
