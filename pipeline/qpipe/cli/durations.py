"""Durations as users write them."""

from __future__ import annotations

import re

from qpipe.errors import RecipeError

SECONDS_PER_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(option: str, text: str, *, may_be_zero: bool = False) -> float:
    """Return the seconds of a number with its unit, such as 90s, 45m, 2h or 1.5d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match or (float(match[1]) == 0 and not may_be_zero):
        raise RecipeError(
            f"{option} '{text}': not a duration; give a number and s, m, h or d, such as 2h"
        )
    number, unit = match.groups()
    return float(number) * SECONDS_PER_UNIT[unit]
