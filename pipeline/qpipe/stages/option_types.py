"""Types of options, and why a value does not fit one, in the words of who writes a recipe."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ONE = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    type(None): "null",
}
_MANY = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false", Path: "paths"}
_UNCOUNTED = ("text", "true or false", "null", "anything")
_LISTS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
_MAPS = (dict, collections.abc.Mapping)

# what pydantic calls a value of the right type that is out of bounds -> ours, with its own names for the bounds
_BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}
_OWN_WORDS = ("value_error", "assertion_error")  # of a check that the plugin itself brought


def described(annotation: Any) -> str:
    """A type without articles: `number or list of numbers`."""
    return " or ".join(_alternatives(annotation))


def wanted(annotation: Any) -> str:
    """What to give, after `give`: `a number or a list of numbers`."""
    return " or ".join(_with_article(each) for each in _alternatives(annotation))


def misfit(annotation: Any, errors: list[Any]) -> str:
    """What would fit, by pydantic's errors of one value."""
    first: Mapping[str, Any] = errors[0]
    if first["type"] in _BOUNDS:
        return "give " + _BOUNDS[first["type"]].format(**first.get("ctx", {}))
    if first["type"] in _OWN_WORDS:
        return str(first["msg"]).partition(", ")[2]
    return f"give {wanted(annotation)}"


def _alternatives(annotation: Any) -> list[str]:
    annotation, arguments, origin = _bare(annotation)
    if origin in (typing.Union, types.UnionType):
        own = [part for part in arguments if part is not type(None)] + [type(None)] * (
            type(None) in arguments
        )
        return [words for part in own for words in _alternatives(part)]
    if origin is typing.Literal:
        return [repr(value) for value in arguments]
    if origin in _LISTS:
        return [_list(arguments)]
    if origin in _MAPS:
        key, value = arguments or (Any, Any)
        return [f"map of {_plural(key)} to {_plural(value)}"]
    if annotation is Any or annotation is object:
        return ["anything"]
    return [_ONE.get(annotation) or inspect.formatannotation(annotation).replace("typing.", "")]


def _list(arguments: tuple[Any, ...]) -> str:
    items = [each for each in arguments if each is not Ellipsis]
    if len(items) > 1 and len(set(items)) == 1:
        return f"list of {len(items)} {_plural(items[0])}"
    return f"list of {' and '.join(_plural(each) for each in items)}" if items else "list"


def _plural(annotation: Any) -> str:
    bare, arguments, origin = _bare(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_plural(part) for part in arguments)
    if origin in _LISTS or origin in _MAPS:
        return (
            described(annotation).replace("list of", "lists of", 1).replace("map of", "maps of", 1)
        )
    return _MANY.get(bare) or described(annotation)


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Without its metadata: the type, its arguments, its origin (itself where a container names no items)."""
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    return annotation, typing.get_args(annotation), typing.get_origin(annotation) or annotation


def _with_article(words: str) -> str:
    return words if words in _UNCOUNTED or not words[0].islower() else f"a {words}"
