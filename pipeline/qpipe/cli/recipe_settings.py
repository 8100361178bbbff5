"""What options set of a recipe, as it is written there: variables, limits, what may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qpipe.errors import RecipeError

if TYPE_CHECKING:
    from qpipe.types import Limits


def parse_settings(settings: Sequence[str] | None) -> dict[str, str]:
    """Return the variables of `NAME=VALUE` texts; raise RecipeError where one has no '='."""
    variables = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: '=' is missing; write --set NAME=VALUE")
        variables[name] = value
    return variables


def parse_limits(minima: Sequence[str] | None, maxima: Sequence[str] | None) -> Limits:
    """Return the limits that --min and --max give; raise RecipeError for one without a number."""
    from qpipe.recipe.limits import read_limits

    return read_limits(minima or [], maxima or [])


def parse_keep(text: str | None) -> float | None:
    """Return what --keep gives, in points; raise RecipeError where it is no such number."""
    from qpipe.recipe.limits import read_keep

    if text is None:
        return None
    try:
        return read_keep(text)
    except RecipeError as error:
        raise RecipeError(f"--keep: {error}") from error
