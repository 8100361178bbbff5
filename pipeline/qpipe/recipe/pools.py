"""Pools of devices: `tag:NAME` is any one device with that tag, `all:NAME` each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qpipe.errors import RecipeError, suggest
from qpipe.recipe.stage_call import Call
from qpipe.recipe.yaml_document import NAME, checked_name

ANY = "tag:"
EACH = "all:"


def is_pool(word: str) -> bool:
    """Return whether a word names a pool, and not a device."""
    return word.startswith((ANY, EACH))


def checked_word(word: Any, where: str) -> str:
    """Return the name of a device or of a pool; raise RecipeError for what is neither."""
    if isinstance(word, str) and is_pool(word):
        checked_name(word.partition(":")[2], where, "tag")
        return word
    return checked_name(word, where, "device")


def members(word: str, devices: Mapping[str, Call], place: str) -> list[str]:
    """Return the devices of a pool, in the order of the inventory, which lies at `place`."""
    tag = word.partition(":")[2]
    names = [name for name, call in devices.items() if tag in tags(call)]
    if not names:
        all_tags = sorted({tag for call in devices.values() for tag in tags(call)})
        fix = (
            suggest(tag, all_tags)
            if all_tags
            else "add one, such as tags: [rpi4] beside its driver"
        )
        raise RecipeError(f"{place}: no device has the tag '{tag}'; {fix}")
    return names


def tags(call: Call) -> list[str]:
    """Return the tags of a device of the inventory."""
    device_tags: list[str] = call.beside.get("tags", [])
    return device_tags


def read_tags(value: Any, where: str) -> list[str]:
    """Return the tags of an inventory; raise RecipeError where they are not a list of names."""
    if not isinstance(value, list) or not all(_is_name(word) for word in value):
        raise RecipeError(f"{where}: tags is {value!r}; give a list of names, such as [rpi4]")
    return value


def _is_name(word: Any) -> bool:
    return isinstance(word, str) and NAME.fullmatch(word) is not None
