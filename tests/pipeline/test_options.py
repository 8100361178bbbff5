"""A signature is the schema: what is read from it, and what is said of options that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator

from qpipe.errors import PluginError, RecipeError
from qpipe.stages.options import Option, StageOption, check, needs, options

if TYPE_CHECKING:
    from nowhere import OnlyForTypeCheckers


def stage(
    model: OnlyForTypeCheckers,
    target: Any,
    *,
    bits: int = 8,
    mode: Literal["near", "down"] = "near",
    factor: float | None = None,
    table: Path | None = None,
    exclude: Sequence[str] = (),
    copy: bool = False,
    json: dict[str, int] | None = None,
    post: Annotated[Any, StageOption("postprocess")] = None,
    metrics: list[Annotated[Any, StageOption("metric")]] | None = None,
) -> None:
    """A stage."""


def strict(*, path: Path) -> None:
    """A stage with an option that must be given."""


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("it must be even")
    return value


def unannotated(*, bits=8) -> None:  # type: ignore[no-untyped-def]
    """A stage whose option has no type."""


def dangling(*, bits: OnlyForTypeCheckers = 8) -> None:
    """A stage whose option has a type that is not there at run time."""


def test_positional_parameters_are_needs_and_their_annotations_are_never_resolved() -> None:
    assert needs(stage) == ("model", "target")
    assert list(options(stage)) == [
        "bits", "mode", "factor", "table", "exclude", "copy", "json", "post", "metrics",
    ]  # fmt: skip


def test_defaults_are_filled_in() -> None:
    assert check(stage, {"bits": 4}, "here") == {
        "bits": 4, "mode": "near", "factor": None, "table": None, "exclude": (), "copy": False, "json": None,
        "post": None, "metrics": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"bits": "4"}, 4),
        ({"factor": 1}, 1.0),
        ({"table": "a/b"}, Path("a/b")),
        ({"exclude": ["a", "b"]}, ["a", "b"]),
        ({"json": {"a": 1}}, {"a": 1}),
        ({"post": {"softmax": {}}}, {"softmax": {}}),
    ],
)
def test_values_are_converted_to_what_is_annotated(given: dict[str, Any], value: Any) -> None:
    (name,) = given
    assert check(stage, given, "here")[name] == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bit": 4}, "here: unknown option 'bit'; "
                     "it takes bits, mode, factor, table, exclude, copy, json, post, metrics"),
        ({"bits": "x"}, "here: option 'bits' is 'x'; give a whole number"),
        ({"bits": 1.5}, "here: option 'bits' is 1.5; give a whole number"),
        ({"bits": [1]}, "here: option 'bits' is [1]; give a whole number"),
        ({"bits": None}, "here: option 'bits' is None; give a whole number"),
        ({"mode": "up"}, "here: option 'mode' is 'up'; give 'near' or 'down'"),
        ({"factor": "fast"}, "here: option 'factor' is 'fast'; give a number or null"),
        ({"exclude": [1]}, "here: option 'exclude' is [1]; give a list of texts"),
        ({"copy": "perhaps"}, "here: option 'copy' is 'perhaps'; give true or false"),
        ({"json": {"a": "b"}}, "here: option 'json' is {'a': 'b'}; give a map of texts to whole numbers or null"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        check(stage, given, "here")
    assert str(error.value) == message


def test_each_option_has_a_place_of_its_own() -> None:
    with pytest.raises(RecipeError, match=r"^line 3: option 'bits' is 'x'"):
        check(stage, {"mode": "near", "bits": "x"}, "line 1", {"mode": "line 2", "bits": "line 3"})


def test_a_missing_option_is_told_with_its_type() -> None:
    with pytest.raises(RecipeError, match=r"^here: option 'path' is missing; give a path$"):
        check(strict, {}, "here")


def demanding(*, path: Path, mean: float | list[float], bits: int = 8) -> None:
    """A stage with two options that must be given."""


def test_all_missing_options_are_told_at_once() -> None:
    message = "here: options 'path', 'mean' are missing; give path (path), mean (number or list of numbers)"
    with pytest.raises(RecipeError) as error:
        check(demanding, {"bits": 4}, "here")
    assert str(error.value) == message


def bounded(
    *,
    bits: Annotated[int, Ge(2), Le(8)] = 8,
    share: Annotated[float, Gt(0), Lt(1)] = 0.5,
    names: Annotated[list[str], Len(1)] = ["a"],  # noqa: B006
    even: Annotated[int, AfterValidator(_even)] = 2,
) -> None:
    """A stage whose options have bounds."""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"bits": 1}, "give at least 2"),
        ({"bits": 9}, "give at most 8"),
        ({"share": 0}, "give more than 0.0"),
        ({"share": 1}, "give less than 1.0"),
        ({"names": []}, "give at least 1 of them"),
        ({"even": 3}, "it must be even"),
    ],
)
def test_a_value_out_of_bounds_is_told_the_bound(given: dict[str, Any], reason: str) -> None:
    ((name, value),) = given.items()
    with pytest.raises(RecipeError) as error:
        check(bounded, given, "here")
    assert str(error.value) == f"here: option '{name}' is {value!r}; {reason}"


def renamed(
    *,
    weight_range: str = "minmax",
    activation_range: str = "minmax",
    levels: Literal["uniform", "pot", "apot"] = "pot",
) -> None:
    """A stage with options that had other names once."""


def renamed_activations(*, activation_range: str = "minmax") -> None:
    """A stage whose option had the old name of another stage's option."""


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (renamed, {"range": "mse"}, "here: option 'range' is now named 'weight_range'"),
        (
            renamed,
            {"activations": "mse"},
            "here: option 'activations' is now named 'activation_range'",
        ),
        (
            renamed_activations,
            {"range": "mse"},
            "here: option 'range' is now named 'activation_range'",
        ),
        (
            renamed,
            {"levels": "additive"},
            "here: option 'levels' is 'additive', which is now named 'apot'",
        ),
        (
            renamed,
            {"levels": "power_of_two"},
            "here: option 'levels' is 'power_of_two', which is now named 'pot'",
        ),
        (
            renamed_activations,
            {"mirror": True},
            "here: unknown option 'mirror'; it takes activation_range",
        ),
    ],
)
def test_an_old_name_of_an_option_is_told_the_new_one(
    function: Callable[..., None], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        check(function, given, "here")
    assert str(raised.value) == message


def test_an_option_without_a_type_is_the_plugins_fault() -> None:
    with pytest.raises(
        PluginError, match=r"test_options\.unannotated: option 'bits' has no type; annotate it$"
    ):
        options(unannotated)


def test_a_type_that_is_not_there_is_the_plugins_fault() -> None:
    message = r"test_options\.dangling: the type of option 'bits' does not resolve: name 'OnlyForTypeCheckers' is not"
    with pytest.raises(PluginError, match=message):
        options(dangling)


def test_options_that_take_stages_are_known_by_their_kind() -> None:
    known = options(stage)
    assert known["post"].stage_kind == "postprocess"
    assert known["metrics"].stage_kind == "metric"
    assert known["bits"].stage_kind is None


def test_the_json_schema_has_types_choices_and_defaults() -> None:
    known = options(stage)
    assert known["bits"].schema() == {"type": "integer", "default": 8}
    assert known["mode"].schema() == {"enum": ["near", "down"], "type": "string", "default": "near"}
    assert "default" not in options(strict)["path"].schema()
    assert known["metrics"].schema()["description"].startswith("a metric stage")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bits", "whole number"), ("mode", "'near' or 'down'"), ("post", "postprocess stage"),
        ("factor", "number or null"), ("table", "path or null"), ("exclude", "list of texts"),
        ("copy", "true or false"),
        ("json", "map of texts to whole numbers or null"),
    ],
)  # fmt: skip
def test_a_type_is_described_as_one_would_say_it(name: str, text: str) -> None:
    assert options(stage)[name].describe() == text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float | list[float], "number or list of numbers"),
        (tuple[float, float], "list of 2 numbers"),
        (tuple[int, ...], "list of whole numbers"),
        (dict[str, list[int]], "map of texts to lists of whole numbers"),
        (float | Literal["0.50:0.95"], "number or '0.50:0.95'"),
        (Annotated[int, Ge(2)], "whole number"),
        (list[int | str], "list of whole numbers or texts"),
        (dict[str, Any], "map of texts to anything"),
        (list, "list"),
        (None | str, "text or null"),  # null last
        (complex, "complex"),
    ],
)
def test_types_of_all_forms_are_described(annotation: Any, text: str) -> None:
    assert Option("it", annotation, None).describe() == text
