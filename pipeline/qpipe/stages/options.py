"""A function's keyword-only parameters are its options: read, checked, filled in and exported from the signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpipe.errors import PluginError, RecipeError
from qpipe.stages import option_types


@dataclass(frozen=True)
class StageOption:
    """Marks an option that takes another stage: `Annotated[Metric, StageOption("metric")]`."""

    kind: str


@dataclass(frozen=True)
class Option:
    """One option of a stage, as its signature declares it."""

    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty where it must be given

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def stage_kind(self) -> str | None:
        """The kind of stage it takes, None for a plain value."""
        return _stage_kind(self.annotation)

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        if self.stage_kind:
            return {
                "description": f"a {self.stage_kind} stage: name, or {{name: {{options}}}}; or a list of them"
            }
        from pydantic import TypeAdapter

        schema = TypeAdapter(self.annotation).json_schema()
        return schema if self.required else {**schema, "default": self.default}

    def describe(self) -> str:
        """Its type as a user would say it: `number or list of numbers`."""
        return (
            f"{self.stage_kind} stage"
            if self.stage_kind
            else option_types.described(self.annotation)
        )

    def wanted(self) -> str:
        """What to give for it: `a number or a list of numbers`."""
        return (
            f"a {self.stage_kind} stage"
            if self.stage_kind
            else option_types.wanted(self.annotation)
        )


def needs(function: Callable[..., Any]) -> list[str]:
    """The names of its positional parameters: what the engine must bring."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """Its options by name; PluginError where an annotation is missing or names nothing."""
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found[parameter.name] = Option(
                parameter.name, _annotation(function, parameter), parameter.default
            )
    return found


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    # only this one annotation is resolved: those of positional parameters may name what only a type checker imports
    where = f"{function.__module__}.{function.__qualname__}"
    if parameter.annotation is inspect.Parameter.empty:
        raise PluginError(f"{where}: option '{parameter.name}' has no type; annotate it")
    holder = type("holder", (), {"__annotations__": {parameter.name: parameter.annotation}})
    try:
        namespace = inspect.unwrap(function).__globals__
        return typing.get_type_hints(holder, globalns=namespace, include_extras=True)[
            parameter.name
        ]
    except (NameError, TypeError, SyntaxError) as error:
        raise PluginError(
            f"{where}: the type of option '{parameter.name}' does not resolve: {error}"
        ) from error


def _stage_kind(annotation: Any) -> str | None:
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, StageOption):
            return mark.kind
    if typing.get_origin(annotation) in (list, tuple, typing.Union, types.UnionType):
        return next((kind for a in typing.get_args(annotation) if (kind := _stage_kind(a))), None)
    return None


def check(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    where: str,
    places: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The options with defaults filled in and values converted; RecipeError, beginning with `where` (or the option's
    own of `places`), for the first that is unknown or of the wrong type, or for all that are missing. Stage options are
    passed through: the recipe resolves them."""
    known = options(function)
    places = places or {}
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise RecipeError(f"{places.get(name, where)}: unknown option '{name}'; {takes}")
    missing = [option for name, option in known.items() if option.required and name not in given]
    if missing:
        raise RecipeError(f"{where}: {_missing(missing)}")
    return {
        name: _converted(option, given[name], places.get(name, where))
        if name in given
        else option.default
        for name, option in known.items()
    }


def _missing(missing: Sequence[Option]) -> str:
    if len(missing) == 1:
        return f"option '{missing[0].name}' is missing; give {missing[0].wanted()}"
    names = ", ".join(f"'{option.name}'" for option in missing)
    return f"options {names} are missing; give " + ", ".join(
        f"{o.name} ({o.describe()})" for o in missing
    )


def _converted(option: Option, value: Any, where: str) -> Any:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if option.stage_kind:
        return value
    try:
        return TypeAdapter(option.annotation).validate_python(value)
    except ValidationError as error:
        reason = option_types.misfit(option.annotation, error.errors())
        raise RecipeError(f"{where}: option '{option.name}' is {value!r}; {reason}") from None
    except PydanticSchemaGenerationError as error:
        raise PluginError(
            f"{where}: the type of option '{option.name}' cannot be checked: {error}"
        ) from error
