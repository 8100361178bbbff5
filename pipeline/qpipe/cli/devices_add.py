"""qpipe devices add."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpipe.cli.enrolment import enrol_function, trust_device
from qpipe.cli.parameters import InventoryOption, JsonOption, TrustOption
from qpipe.cli.tables import print_json, print_text
from qpipe.errors import RecipeError, shown

if TYPE_CHECKING:
    Entry = Mapping[str, Mapping[str, Any]]  # driver -> options

ENTRY_WIDTH = 10_000  # columns: an entry is one line


def devices_add(
    name: Annotated[str, typer.Argument(help="The name of the device.", show_default=False)],
    address: Annotated[
        str,
        typer.Argument(
            metavar="USER@HOST[:PORT]", help="The address of the device.", show_default=False
        ),
    ],
    key: Annotated[
        Path | None, typer.Option("--key", help="The private key to log in with.")
    ] = None,
    jump: Annotated[
        str | None, typer.Option("--jump", help="The host to go through, as user@host:port.")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="The Python to use on the device.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", help="The folder for qpipe's files on the device.")
    ] = None,
    driver: Annotated[str, typer.Option("--driver", help="The kind of device.")] = "ssh",
    yes: TrustOption = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a device: confirm its host key, log in, and write it into devices.yaml."""
    from qpipe.errors import shown
    from qpipe.recipe import inventory as inventories
    from qpipe.recipe.yaml_document import checked_name
    from qpipe.stages import registry
    from qpipe.stages.options import check

    plugins = registry.load()
    file = inventories.find_here(inventory) or Path(inventories.FILE)
    checked_name(name, "devices add", "device")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    _check_unused(name, text, file)
    stage = plugins.device(driver, "devices add")
    options = _driver_options(key=key, jump=jump, python=python, folder=folder)
    introduction = enrol_function(stage)(name, address, options, file.parent)
    check(stage.function, introduction.options, f"devices add: device {driver}")
    entry = {driver: dict(introduction.options)}
    extended_text = _append_entry(text, file, name, entry)
    known_in = trust_device(name, introduction, without_asking=yes)
    _replace_file(file, extended_text)
    if as_json:
        print_json(
            {
                "name": name,
                "entry": entry,
                "inventory": file,
                "shown": introduction.shown,
                "known_in": known_in,
            }
        )
    else:
        print_text(f"{name}: added to {shown(file)}; its host key is recorded in {known_in}")
        print_text(f"next: qpipe devices check {name}")


def _driver_options(
    *, key: Path | None, jump: str | None, python: str | None, folder: str | None
) -> dict[str, Any]:
    """Return the options of the driver that were given; the key as an absolute path."""
    absolute_key = Path.cwd() / key.expanduser() if key else None
    options = {"key": absolute_key, "jump": jump, "python": python, "folder": folder}
    return {option: value for option, value in options.items() if value is not None}


def _check_unused(name: str, text: str, file: Path) -> None:
    """Raise RecipeError where the inventory has a device of that name."""
    from qpipe.recipe import inventory, yaml_document

    devices = yaml_document.parse(text, file).root or ()
    if name == inventory.LOCAL or name in devices:
        raise RecipeError(
            f"{shown(file)}: device '{name}' exists already; give another name, or change its entry"
        )


def _append_entry(text: str, file: Path, name: str, entry: Entry) -> str:
    """Return the text of an inventory with an entry appended, all else unchanged.

    Raise RecipeError where the result would not be the same inventory with one more device.
    """
    import yaml

    from qpipe.recipe import yaml_document

    value = yaml.safe_dump(
        dict(entry), default_flow_style=True, width=ENTRY_WIDTH, sort_keys=False
    ).strip()
    key = yaml.safe_dump(name).splitlines()[0]
    newline = "\n" if text and not text.endswith("\n") else ""
    extended_text = f"{text}{newline}{_indentation(text)}{key}: {value}\n"
    devices = yaml_document.parse(text, file).root or {}
    if not _is_extended(devices, extended_text, file, name, entry):
        raise RecipeError(
            f"{shown(file)}: nothing can be appended to this file; write into it: {key}: {value}"
        )
    return extended_text


def _indentation(text: str) -> str:
    """Return the spaces before the first entry of an inventory."""
    for line in text.splitlines():
        content = line.lstrip()
        if content and not content.startswith(("#", "---", "%")):
            return " " * (len(line) - len(content))
    return ""


def _is_extended(devices: Any, extended_text: str, file: Path, name: str, entry: Entry) -> bool:
    """Whether the extended text is the same inventory with one more device."""
    from qpipe.recipe import yaml_document

    if not isinstance(devices, dict):
        return False
    try:
        extended_devices = yaml_document.parse(extended_text, file).root
    except RecipeError:
        return False
    return bool(extended_devices == {**devices, name: entry})


def _replace_file(file: Path, text: str) -> None:
    """Write a file whole or not at all; its mode and a link to it stay."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    if file.exists():
        temporary.chmod(file.stat().st_mode)
    temporary.replace(file.resolve())
