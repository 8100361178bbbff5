"""Trust in a device: ask it for its identity, and let the user compare it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qpipe.errors import RecipeError, printable

if TYPE_CHECKING:
    from qpipe.hookspecs import Enrol
    from qpipe.stages.registry import Stage
    from qpipe.types import Introduction


def enrol_function(stage: Stage) -> Enrol:
    """Return the driver's function for a device's identity; raise RecipeError without one."""
    from qpipe.recipe.inventory import FILE

    if stage.enrol is None:
        raise RecipeError(
            f"devices of kind '{stage.name}' have no key to trust; write the entry into {FILE}"
        )
    return stage.enrol


def trust_device(name: str, introduction: Introduction, *, without_asking: bool) -> str:
    """Trust the identity that a device shows, and return the file in which it is recorded.

    The user is asked, where the identity is not trusted already. Raise RecipeError where the
    answer is no, or where there is no terminal to ask on.
    """
    from qpipe.errors import shown

    if not (without_asking or introduction.is_known):
        _ask_user(name, introduction)
    return shown(Path(introduction.accept()))


def _ask_user(name: str, introduction: Introduction) -> None:
    if not sys.stdin.isatty():
        raise RecipeError(
            f"{name}: shows {introduction.shown}, which cannot be confirmed without a terminal; "
            f"compare it with the output of `{introduction.compare}` there, then give --yes"
        )
    for known in introduction.known:
        typer.echo(f"{name} was known by  {printable(known)}", err=True)
    typer.echo(f"{name} shows         {printable(introduction.shown)}", err=True)
    typer.echo(f"on the device itself: {printable(introduction.compare)}", err=True)
    if not typer.confirm("Are they the same?", err=True):
        raise RecipeError(f"{name}: not trusted; nothing was changed")
