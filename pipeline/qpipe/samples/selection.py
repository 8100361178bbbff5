"""Which samples are taken where not all are: those that `qpipe new` and `qpipe samples` score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

# enough to tell a right preprocessing from a wrong one, and few enough to look at
TRIAL_COUNT = 48

Item = TypeVar("Item")


def take_evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """Return that many items, evenly spread: those of one class often lie together.

    All are returned where count is None or too large.
    """
    if count is None or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
