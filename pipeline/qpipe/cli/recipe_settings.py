"""What options set of a recipe: its variables by --set, and what may be lost by --keep."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.errors import RecipeError


def parse_settings(settings: Sequence[str] | None) -> dict[str, str]:
    """Return the variables of `NAME=VALUE` texts; raise RecipeError where one has no '='."""
    variables = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: '=' is missing; write --set NAME=VALUE")
        variables[name] = value
    return variables


def parse_keep(text: str | None) -> float | None:
    """Return what --keep gives, in points; raise RecipeError where it is no such number."""
    from qpipe.recipe.limits import read_keep

    if text is None:
        return None
    try:
        return read_keep(text)
    except RecipeError as error:
        raise RecipeError(f"--keep: {error}") from error
