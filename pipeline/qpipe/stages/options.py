"""The options of a stage: its keyword-only parameters, read, checked and exported."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from qpipe.errors import PluginError, RecipeError
from qpipe.stages import option_types

# options and values that had other names before the first release: the old name, and the new one,
# or all that it became in different stages
RENAMED_OPTIONS: Mapping[str, Sequence[str]] = {
    "activations": ("activation_range",),
    "calibrate": ("calibration_count",),
    "colours": ("color_order",),
    "evaluate": ("evaluation_count",),
    "free_batch": ("dynamic_batch",),
    "mirror": ("horizontal_flip",),
    "range": ("weight_range", "activation_range"),
    "socket": ("http",),
    "spare_mb": ("min_free_mb",),
}
RENAMED_VALUES: Mapping[tuple[str, str], str] = {
    ("levels", "additive"): "apot",
    ("levels", "power_of_two"): "pot",
}


@dataclass(frozen=True)
class StageOption:
    """A mark for an option that takes another stage: `Annotated[Metric, StageOption("metric")]`."""

    kind: str


@dataclass(frozen=True)
class Option:
    """One option of a stage, as its signature declares it."""

    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty where a value is required

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def stage_kind(self) -> str | None:
        """The kind of stage that the option takes; None for a plain value."""
        return _stage_kind(self.annotation)

    def schema(self) -> dict[str, Any]:
        """Return the option's JSON Schema."""
        if self.stage_kind:
            grammar = "name, or {name: {options}}; or a list of them"
            return {"description": f"a {self.stage_kind} stage: {grammar}"}
        from pydantic import TypeAdapter

        schema = TypeAdapter(self.annotation).json_schema()
        if not self.required:
            schema["default"] = self.default
        return schema

    def describe(self) -> str:
        """Return its type in plain words: `number or list of numbers`."""
        if self.stage_kind:
            return f"{self.stage_kind} stage"
        return option_types.describe_type(self.annotation)

    def expected_value(self) -> str:
        """Return what to give for it: `a number or a list of numbers`."""
        if self.stage_kind:
            return f"a {self.stage_kind} stage"
        return option_types.expected_value(self.annotation)


@cache
def needs(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the positional parameters: what the engine has to pass to the stage."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the options by name; raise PluginError where an annotation is missing or invalid."""
    by_name = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            annotation = _resolve_annotation(function, parameter)
            by_name[name] = Option(name, annotation, parameter.default)
    return by_name


def _resolve_annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the type of one parameter.

    The others are not resolved: annotations of positional parameters may name types that are
    imported for type checkers alone.
    """
    name = parameter.name
    where = f"{function.__module__}.{function.__qualname__}"
    if parameter.annotation is inspect.Parameter.empty:
        raise PluginError(f"{where}: option '{name}' has no type; annotate it")
    holder = type("holder", (), {"__annotations__": {name: parameter.annotation}})
    namespace = inspect.unwrap(function).__globals__
    try:
        hints = typing.get_type_hints(holder, globalns=namespace, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise PluginError(
            f"{where}: the type of option '{name}' does not resolve: {error}"
        ) from error
    return hints[name]


def _stage_kind(annotation: Any) -> str | None:
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, StageOption):
            return mark.kind
    if typing.get_origin(annotation) in (list, tuple, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            kind = _stage_kind(argument)
            if kind:
                return kind
    return None


def check(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    where: str,
    places: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the options of a stage, values converted to their types and defaults filled in.

    Raise RecipeError for the first option that is unknown or has the wrong type, or for all that
    are missing. Its message begins with `where`, or with the option's entry in `places`. Options
    that take stages are passed through: the recipe resolves them.
    """
    declared = options(function)
    places = places or {}
    for name in values:
        if name not in declared:
            place = places.get(name, where)
            raise RecipeError(f"{place}: {_describe_unknown(name, declared)}")
    required = [option for option in declared.values() if option.required]
    missing = [option for option in required if option.name not in values]
    if missing:
        raise RecipeError(f"{where}: {_describe_missing(missing)}")
    checked = {}
    for name, option in declared.items():
        if name in values:
            checked[name] = _convert(option, values[name], places.get(name, where))
        else:
            checked[name] = option.default
    return checked


def _describe_unknown(name: str, declared: Mapping[str, Option]) -> str:
    for new_name in RENAMED_OPTIONS.get(name, ()):
        if new_name in declared:
            return f"option '{name}' is now named '{new_name}'"
    takes = ", ".join(declared) or "none"
    return f"unknown option '{name}'; it takes {takes}"


def _describe_missing(missing: Sequence[Option]) -> str:
    if len(missing) == 1:
        option = missing[0]
        return f"option '{option.name}' is missing; give {option.expected_value()}"
    names = ", ".join(f"'{option.name}'" for option in missing)
    types_of_options = ", ".join(f"{option.name} ({option.describe()})" for option in missing)
    return f"options {names} are missing; give {types_of_options}"


def _convert(option: Option, value: Any, where: str) -> Any:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if option.stage_kind:
        return value
    try:
        return TypeAdapter(option.annotation).validate_python(value)
    except ValidationError as error:
        new_value = RENAMED_VALUES.get((option.name, value)) if isinstance(value, str) else None
        if new_value is not None:
            message = f"option '{option.name}' is {value!r}, which is now named {new_value!r}"
            raise RecipeError(f"{where}: {message}") from None
        misfit = option_types.describe_misfit(option.annotation, error.errors())
        raise RecipeError(f"{where}: option '{option.name}' is {value!r}; {misfit}") from None
    except PydanticSchemaGenerationError as error:
        raise PluginError(
            f"{where}: the type of option '{option.name}' cannot be checked: {error}"
        ) from error
