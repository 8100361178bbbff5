"""Checks of every kind: the docstring and the options, as `qpipe describe` shows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qpipe.errors import RecipeError
from qpipe.stages.options import Option, check, options
from qpipe.testing.checks import NonconformityError, Subject, require

# no option of a sensible type takes all of these
WRONG_VALUES: tuple[Any, ...] = ({"no": {"such": "key"}}, "no such value", [["nested"]], -1e301)
UNKNOWN = "no_such_option"


def options_are_documented(subject: Subject, folder: Path) -> str:
    """Require a docstring that begins with a sentence, and a type in plain words for each option.

    A default has to fit the type of its option.
    """
    function = subject.stage.function
    docstring = inspect.getdoc(function) or ""
    require(bool(docstring), "it has no docstring; its first line is shown by 'qpipe plugins'")
    is_sentence = subject.stage.help.endswith((".", ":", ";"))
    require(is_sentence, f"its docstring begins with {subject.stage.help!r}; write a sentence")
    declared = options(function)
    for option in declared.values():
        _require_described(option)
        if not option.required and not option.stage_kind:
            check(function, {**_placeholders(declared), option.name: option.default}, subject.label)
    return f"{len(declared)} options"


def wrong_options_are_refused(subject: Subject, folder: Path) -> str:
    """Require that an unknown option, and a value that fits no type, is refused in one line."""
    function = subject.stage.function
    declared = options(function)
    reason = _refusal(subject, {**_placeholders(declared), UNKNOWN: 1})
    require(UNKNOWN in (reason or ""), f"it takes an option '{UNKNOWN}', which it does not have")
    refused = 0
    for option in declared.values():
        if option.stage_kind:
            continue
        reasons = [
            reason
            for value in WRONG_VALUES
            if (reason := _refusal(subject, {**_placeholders(declared), option.name: value}))
        ]
        problem = f"option '{option.name}' takes any value; annotate it with a narrower type"
        require(bool(reasons), problem)
        for reason in reasons:
            is_told = f"'{option.name}'" in reason and "\n" not in reason
            require(is_told, f"a wrong '{option.name}' is refused by {reason!r}; name the option")
        refused += 1
    return f"{refused} options, with {len(WRONG_VALUES)} wrong values each"


def _require_described(option: Option) -> None:
    words = option.describe()
    option.schema()
    is_plain = "<" not in words and "typing." not in words
    require(is_plain, f"the type of option '{option.name}' is shown as {words!r}; use a plain type")


def _placeholders(declared: dict[str, Option]) -> dict[str, Any]:
    """Return a value that fits for each option that is required."""
    values = {}
    for option in declared.values():
        if option.required and not option.stage_kind:
            values[option.name] = fitting_value(option)
    return values


def fitting_value(option: Option) -> Any:
    """Return a value that fits the type of an option; raise NonconformityError without one."""
    for value in candidate_values(option):
        return value
    raise NonconformityError(f"option '{option.name}' takes none of the usual values")


def candidate_values(option: Option) -> Iterator[Any]:
    """Yield values that an option takes, as its type has them: other ones than its default."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(option.annotation)
    seen = [option.default]
    for value in _usual_values(option):
        try:
            checked = adapter.validate_python(value)
        except ValidationError:
            continue
        if checked not in seen:
            seen.append(checked)
            yield value


def _usual_values(option: Option) -> Iterator[Any]:
    schema = option.schema()
    yield from _listed_values(schema)
    yield from (True, False, 1, 2, 3, 4, 5, 7, 8, 16, 0.5, 0.25, 0.1, 60.5, 0)
    yield from ("text", "another text", Path("file"), Path("file/below"))
    yield from (["text"], [1], [1, 2], [[1, 2]], [], {"name": [1]}, {"name": 1}, {"name": "text"})


def _listed_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the values that a JSON Schema lists, on all its levels."""
    yield from schema.get("enum", ())
    if "const" in schema:
        yield schema["const"]
    for part in schema.get("anyOf", ()):
        yield from _listed_values(part)
    if isinstance(schema.get("items"), dict):
        yield from ([value] for value in _listed_values(schema["items"]))


def _refusal(subject: Subject, values: dict[str, Any]) -> str | None:
    """Return why these options are refused; None where they are taken."""
    try:
        check(subject.stage.function, values, subject.label)
    except RecipeError as error:
        return str(error)
    return None
