"""The variables of a recipe as the options --set give them."""

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
