"""Safe YAML: what is refused, in which words, and where everything stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpipe.errors import RecipeError
from qpipe.recipe import yaml_document
from qpipe.recipe.yaml_document import FromCommandLine

PLACE = Path("r.yaml")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(10 * [f'*{old}'])}]\n" for old, new in ("ab", "bc", "cd", "de", "ef")
)
PLAIN = "use plain text, numbers, lists and maps"

REFUSED = [
    ("a: [1, 2", "r.yaml:1: not YAML: expected ',' or ']', but got '<stream end>'; check indentation, colons and tabs"),
    ("a:\n\tb: 1", "r.yaml:2: not YAML: found character '\\t' that cannot start any token; "
     "check indentation, colons and tabs"),
    ("a: 1\nb: 'x", "r.yaml:2: not YAML: found unexpected end of stream; check indentation, colons and tabs"),
    ("a: 1\n---\nb: 2", "r.yaml:2: not YAML: but found another document; check indentation, colons and tabs"),
    ("a: *missing", "r.yaml:1: not YAML: found undefined alias 'missing'; check indentation, colons and tabs"),
    ("a: 1\na: 2", "r.yaml:2: 'a' is given twice; remove one"),
    ("b:\n  - {a: 1, a: 2}", "r.yaml:2: 'a' is given twice; remove one"),
    ("a: !!python/object/apply:os.system [id]", "r.yaml:1: tag 'tag:yaml.org,2002:python/object/apply:os.system' "
     f"is not allowed; {PLAIN}"),
    ("a: !!python/name:os.system x", f"r.yaml:1: tag 'tag:yaml.org,2002:python/name:os.system' is not allowed; "
     f"{PLAIN}"),
    ("a: !!python/object:os.x {b: 1}", f"r.yaml:1: tag 'tag:yaml.org,2002:python/object:os.x' is not allowed; {PLAIN}"),
    ("a: !mine x", f"r.yaml:1: tag '!mine' is not allowed; {PLAIN}"),
    ("a: !!bool maybe", "r.yaml:1: 'maybe' is no bool; put it in quotes if it is text"),
    ("a: !!int ''", "r.yaml:1: '' is no int; put it in quotes if it is text"),
    ("a: 2026-13-45", "r.yaml:1: '2026-13-45' is no timestamp; put it in quotes if it is text"),
    ("{a: 1}: 2", "r.yaml:1: a key must be a plain word; write it out"),
    ("a: &x {b: 1}\nc:\n  <<: *x", "r.yaml:3: a key must be a plain word; write it out"),
    ("a: &a [*a]", "r.yaml:1: aliases expand to more than 20000 values; write it without them"),
    (BOMB, "r.yaml:1: aliases expand to more than 20000 values; write it without them"),
    ("[" * 5000, "r.yaml: nested too deeply; a recipe has few levels"),
    ("a: \x01", "r.yaml: not YAML: unacceptable character #x0001: special characters are not allowed in \"<unicode "
     "string>\", position 3; remove it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text[:24] for text, _ in REFUSED])
def test_what_is_not_plain_yaml_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        yaml_document.parse(text, PLACE)
    assert str(error.value) == message


def test_an_alias_bomb_is_refused_at_once() -> None:
    # ten to the sixth values by six lines: expanding them all would be seen
    with pytest.raises(RecipeError):
        yaml_document.parse(BOMB, PLACE)


def test_ordinary_aliases_are_allowed() -> None:
    assert yaml_document.parse("a: &x {b: 1}\nc: *x", PLACE).root == {"a": {"b": 1}, "c": {"b": 1}}


def test_lines_are_those_of_keys_and_items() -> None:
    found = yaml_document.parse("a: 1\nb:\n  c:\n    - x\n    - {d:\n        5}\n", PLACE)
    assert found.at("a") == "r.yaml:1"
    assert found.at("b", "c") == "r.yaml:3"
    assert found.at("b", "c", 1) == "r.yaml:5"
    assert found.at("b", "c", 1, "d") == "r.yaml:5"


def test_what_has_no_line_has_that_of_what_holds_it() -> None:
    assert (
        yaml_document.parse("a: 1\nb: {c: 2}\n", PLACE).at("b", "missing", "deeper") == "r.yaml:2"
    )


def test_a_missing_file_and_one_that_is_not_utf8_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError, match=r"^no\.yaml: no such file; give the path of a YAML file$"
    ):
        yaml_document.read(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9t\xe9")
    with pytest.raises(
        RecipeError, match=r"^latin\.yaml: cannot be read: 'utf-8' .*; give a YAML file in UTF-8$"
    ):
        yaml_document.read(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match=r"^\.: cannot be read: .*Is a directory"):
        yaml_document.read(tmp_path)


def test_a_lone_variable_keeps_its_type_and_others_become_text() -> None:
    found = yaml_document.parse("a: ${n}\nb: x${n}y\nvariables: {n: '${n}'}", PLACE)
    assert yaml_document.substitute(found, {"n": 3}) == {
        "a": 3,
        "b": "x3y",
        "variables": {"n": "${n}"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [x, '${scene}']", "r.yaml:2: unknown variable 'scene'; did you mean 'scenes'?"),
        ("a: '${}'", "r.yaml:1: unknown variable ''; there is folder, nothing, scenes"),
        (
            "a: '${env:QPIPE_NOT_SET}'",
            "r.yaml:1: environment variable 'QPIPE_NOT_SET' is not set; set it",
        ),
        (
            "a: 1\nb: x/${nothing}.onnx",
            "r.yaml:2: variable 'nothing' is not set; run with --set nothing=...",
        ),
    ],
)
def test_a_variable_that_gives_nothing_is_an_error(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        yaml_document.substitute(
            yaml_document.parse(text, PLACE), {"scenes": 5, "nothing": None, "folder": "f"}
        )
    assert str(error.value) == message


def test_a_lone_unset_variable_is_null_and_remembered() -> None:
    found = yaml_document.parse("a: {b: '${nothing}'}", PLACE)
    assert yaml_document.substitute(found, {"nothing": None}) == {"a": {"b": None}}
    assert found.unset == {("a", "b"): "nothing"}


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPIPE_TEST", "from outside")
    assert yaml_document.substitute(yaml_document.parse("a: '${env:QPIPE_TEST}'", PLACE), {}) == {
        "a": "from outside"
    }


def test_a_text_that_begins_with_a_value_of_the_command_line_is_from_there() -> None:
    variables = {"folder": FromCommandLine("here"), "size": 5}
    found = yaml_document.substitute(
        yaml_document.parse("a: '${folder}/x.onnx'\nb: 'y/${folder}'", PLACE), variables
    )
    assert found == {"a": "here/x.onnx", "b": "y/here"}
    assert isinstance(found["a"], FromCommandLine)
    assert not isinstance(found["b"], FromCommandLine)


@pytest.mark.parametrize(
    "name", ["../evil", "", "a/b", ".hidden", "a b", "-x", "a\n", "é", 5, None, ["a"]]
)
def test_a_name_that_could_be_a_path_is_refused(name: object) -> None:
    with pytest.raises(RecipeError) as error:
        yaml_document.checked_name(name, "r.yaml:1", "scheme")
    allowed = "use letters, digits, '.', '_' and '-'"
    assert str(error.value) == f"r.yaml:1: scheme name {name!r} is not allowed; {allowed}"
