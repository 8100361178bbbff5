"""What a measurement may ask of the device around each of its rounds, beside how many values to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def round_options(
    threads: int | None,
    batch: int,
    affinity: Sequence[int] | None = None,
    governor: str | None = None,
    cool_to_c: float | None = None,
    max_load: float | None = None,
) -> dict[str, Any]:
    """The `options` of Device.round, those that were asked for."""
    asked = {
        "threads": threads,
        "batch": batch if batch > 1 else None,
        "affinity": list(affinity) if affinity else None,
        "governor": governor,
        "cool_to_c": cool_to_c,
        "max_load": max_load,
    }
    return {name: value for name, value in asked.items() if value is not None}
