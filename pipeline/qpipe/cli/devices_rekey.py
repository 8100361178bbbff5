"""qpipe devices rekey."""

from __future__ import annotations

from pathlib import Path

from qpipe.cli.enrolment import enrol_function, trust_device
from qpipe.cli.parameters import DeviceArgument, InventoryOption, JsonOption, TrustOption
from qpipe.cli.tables import print_json, print_text


def devices_rekey(
    name: DeviceArgument,
    yes: TrustOption = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trust the host key that a device shows now, in place of the old one.

    A device shows a new host key after its system was installed anew.
    """
    from qpipe.recipe import inventory as inventories
    from qpipe.stages import registry

    plugins = registry.load()
    file = inventories.find_here(inventory)
    call = inventories.pick(inventories.load(file, plugins), name, file)
    folder = file.parent if file else Path()
    introduction = enrol_function(call.stage)(name, None, call.resolved(), folder)
    known_in = trust_device(name, introduction, without_asking=yes)
    if as_json:
        print_json(
            {
                "name": name,
                "shown": introduction.shown,
                "was": list(introduction.known),
                "known_in": known_in,
            }
        )
    elif introduction.is_known:
        print_text(f"{name}: {introduction.shown} is trusted already, and the login works")
    else:
        print_text(f"{name}: {introduction.shown} is trusted now; it is recorded in {known_in}")
