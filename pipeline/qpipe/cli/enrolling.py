"""devices add and devices rekey: a device becomes known when a human has compared what it shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from qpipe.cli.printing import print_json, print_text
from qpipe.errors import RecipeError, printable
from qpipe.hookspecs import Enrol
from qpipe.recipe import inventory, yaml_document
from qpipe.recipe.yaml_document import shown
from qpipe.stages import registry
from qpipe.stages.options import check
from qpipe.stages.registry import Stage
from qpipe.types import Introduction

WIDE = 10_000  # columns: one device, one line


def add(
    name: str,
    address: str,
    driver: str,
    given: Mapping[str, Any],
    inventory_file: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Ask a new device what it is, and once that is accepted and it lets us in, write it into the inventory."""
    plugins = registry.load()
    file = inventory.find_here(inventory_file) or Path(inventory.FILE)
    yaml_document.name(name, "devices add", "device")
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if name in (inventory.LOCAL, *(yaml_document.parse(before, file).root or ())):
        raise RecipeError(
            f"{shown(file)}: there is a device '{name}' already; give another name, or change its entry"
        )
    stage = plugins.device(driver, "devices add")
    options = {option: value for option, value in given.items() if value is not None}
    introduction = _enrol(stage)(name, address, options, file.parent)
    entry = {driver: dict(introduction.options)}
    check(stage.function, introduction.options, f"devices add: device {driver}")
    text = _appended(before, file, name, entry)
    place = _accept(name, introduction, yes)
    _write(file, text)
    if as_json:
        print_json(
            {
                "name": name,
                "entry": entry,
                "inventory": file,
                "shown": introduction.shown,
                "known_in": place,
            }
        )
    else:
        print_text(
            f"{name}: added to {shown(file)}; what it shows is noted in {place}\nnext: qpipe devices check {name}"
        )


def rekey(name: str, inventory_file: Path | None, yes: bool, as_json: bool) -> None:
    """Take what a device of the inventory shows now in place of what it was known by."""
    plugins = registry.load()
    file = inventory.find_here(inventory_file)
    call = inventory.pick(inventory.load(file, plugins), name, file)
    introduction = _enrol(call.stage)(name, None, call.resolved(), file.parent if file else Path())
    place = _accept(name, introduction, yes)
    if as_json:
        was = list(introduction.known)
        print_json({"name": name, "shown": introduction.shown, "was": was, "known_in": place})
    elif introduction.is_known:
        print_text(f"{name}: it is known by {introduction.shown} already, and lets us in")
    else:
        print_text(f"{name}: known by {introduction.shown} from now on; it is noted in {place}")


def _enrol(stage: Stage) -> Enrol:
    if stage.enrol is None:
        raise RecipeError(
            f"devices of kind '{stage.name}' are not enrolled; write the entry into {inventory.FILE}"
        )
    return stage.enrol


def _accept(name: str, introduction: Introduction, yes: bool) -> str:
    """Where it is noted, once it is trusted; the question is asked where somebody can answer it."""
    if not (yes or introduction.is_known):
        if not sys.stdin.isatty():
            fix = f"compare it with that of `{introduction.compare}` there, then give --yes"
            raise RecipeError(
                f"{name}: it shows {introduction.shown}, and nobody is asked here; {fix}"
            )
        for known in introduction.known:
            typer.echo(f"{name} was known by  {printable(known)}", err=True)
        typer.echo(f"{name} shows         {printable(introduction.shown)}", err=True)
        typer.echo(f"on the device itself: {printable(introduction.compare)}", err=True)
        if not typer.confirm("Is it the same?", err=True):
            raise RecipeError(f"{name}: not accepted; nothing was changed")
    return shown(Path(introduction.accept()))


def _appended(before: str, file: Path, name: str, entry: Mapping[str, Any]) -> str:
    """The inventory with one entry more, everything else as it was; RecipeError where its end takes none."""
    written = yaml.safe_dump(
        dict(entry), default_flow_style=True, width=WIDE, sort_keys=False
    ).strip()
    key = yaml.safe_dump(name).splitlines()[0]
    lines = before.splitlines()
    first = next(
        (
            line
            for line in lines
            if line.strip() and not line.lstrip().startswith(("#", "---", "%"))
        ),
        "",
    )
    indent = " " * (len(first) - len(first.lstrip()))
    gap = "" if not before or before.endswith("\n") else "\n"
    after = f"{before}{gap}{indent}{key}: {written}\n"
    was = yaml_document.parse(before, file).root or {}
    try:
        fits = isinstance(was, dict) and yaml_document.parse(after, file).root == {
            **was,
            name: entry,
        }
    except RecipeError:
        fits = False
    if not fits:
        raise RecipeError(
            f"{shown(file)}: nothing can be added at its end; write into it: {key}: {written}"
        )
    return after


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    if file.exists():
        aside.chmod(file.stat().st_mode)
    aside.replace(file.resolve())
