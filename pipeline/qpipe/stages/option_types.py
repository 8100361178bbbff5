"""Types of options in plain words, and why a value does not fit one."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SINGULAR = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    type(None): "null",
}
_PLURAL = {
    int: "whole numbers",
    float: "numbers",
    str: "texts",
    bool: "true or false",
    Path: "paths",
}
_WITHOUT_ARTICLE = ("text", "true or false", "null", "anything")
_UNIONS = (typing.Union, types.UnionType)
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

# pydantic's error type for a value of the right type that is out of bounds -> what would fit
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
# pydantic's error types for a check that the plugin itself wrote
_CHECKS_OF_PLUGIN = ("value_error", "assertion_error")


@dataclass(frozen=True)
class _Parts:
    """An annotation without its metadata, taken apart."""

    annotation: Any
    arguments: tuple[Any, ...]
    origin: Any  # the annotation itself where a container names no items


def describe_type(annotation: Any) -> str:
    """Return the type without articles: `number or list of numbers`."""
    return " or ".join(_alternatives(annotation))


def expected_value(annotation: Any) -> str:
    """Return what to give, to follow the word `give`: `a number or a list of numbers`."""
    return " or ".join(_with_article(words) for words in _alternatives(annotation))


def describe_misfit(annotation: Any, errors: Sequence[Mapping[str, Any]]) -> str:
    """Return what would fit, from pydantic's errors about one value."""
    first = errors[0]
    error_type = first["type"]
    if error_type in _BOUNDS:
        return "give " + _BOUNDS[error_type].format(**first.get("ctx", {}))
    if error_type in _CHECKS_OF_PLUGIN:
        # pydantic writes "Value error, " before the plugin's message
        return str(first["msg"]).partition(", ")[2]
    return f"give {expected_value(annotation)}"


def _alternatives(annotation: Any) -> list[str]:
    """Return the members of a union in words, null last; one entry for any other type."""
    parts = _take_apart(annotation)
    if parts.origin in _UNIONS:
        none = type(None)
        members = [member for member in parts.arguments if member is not none]
        if none in parts.arguments:
            members.append(none)
        return [words for member in members for words in _alternatives(member)]
    if parts.origin is typing.Literal:
        return [repr(value) for value in parts.arguments]
    if parts.origin in _LISTS:
        return [_list_of(parts.arguments)]
    if parts.origin in _MAPS:
        key, value = parts.arguments or (Any, Any)
        return [f"map of {_plural(key)} to {_plural(value)}"]
    if parts.annotation is Any or parts.annotation is object:
        return ["anything"]
    if parts.annotation in _SINGULAR:
        return [_SINGULAR[parts.annotation]]
    return [inspect.formatannotation(parts.annotation).replace("typing.", "")]


def _list_of(arguments: tuple[Any, ...]) -> str:
    items = [item for item in arguments if item is not Ellipsis]
    if not items:
        return "list"
    if len(items) > 1 and len(set(items)) == 1:
        return f"list of {len(items)} {_plural(items[0])}"
    return f"list of {' and '.join(_plural(item) for item in items)}"


def _plural(annotation: Any) -> str:
    parts = _take_apart(annotation)
    if parts.origin in _UNIONS:
        return " or ".join(_plural(member) for member in parts.arguments)
    words = describe_type(annotation)
    if parts.origin in _LISTS or parts.origin in _MAPS:
        return words.replace("list of", "lists of", 1).replace("map of", "maps of", 1)
    return _PLURAL.get(parts.annotation, words)


def _take_apart(annotation: Any) -> _Parts:
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    origin = typing.get_origin(annotation) or annotation
    return _Parts(annotation, typing.get_args(annotation), origin)


def _with_article(words: str) -> str:
    is_quoted = not words[0].islower()
    if is_quoted or words in _WITHOUT_ARTICLE:
        return words
    return f"a {words}"
