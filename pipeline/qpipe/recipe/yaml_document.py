"""Safe YAML that knows where everything stands, for messages that name file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qpipe.errors import RecipeError, suggest

LIMIT = 20_000  # nodes, aliases expanded: far above any recipe, far below an alias bomb
LONGEST = 1_000_000  # characters of a file: this, too
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")

Steps = tuple[str | int, ...]  # the keys and indices that lead to a value


class FromCommandLine(str):
    """A text given with --set; a path in it is relative to the working directory, not to the recipe."""

    __slots__ = ()


@dataclass
class Document:
    """A YAML file as plain Python, and the line of every value in it."""

    path: Path
    text: str
    root: Any
    lines: dict[Steps, int] = field(default_factory=dict)
    unset: dict[Steps, str] = field(
        default_factory=dict
    )  # values that are null because this variable is
    secret: set[Steps] = field(
        default_factory=set
    )  # values that come from the environment: never stored

    def at(self, *steps: str | int) -> str:
        """`file:line` of the value these keys lead to, or of the nearest one above it."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return f"{shown(self.path)}:{self.lines.get(steps, 1)}"


def shown(path: Path) -> str:
    """A path as the user would type it: relative where it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read(path: Path) -> Document:
    """Read and convert a YAML file; RecipeError for whatever is not plain, safe YAML."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LONGEST + 1)
    except FileNotFoundError:
        raise RecipeError(f"{shown(path)}: no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{shown(path)}: cannot be read: {error}; give a YAML file in UTF-8"
        ) from None
    if len(text) > LONGEST:
        raise RecipeError(f"{shown(path)}: longer than {LONGEST} characters; give a YAML file")
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """Convert YAML text; `path` is only for messages."""
    document = Document(path, text, None)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        where = f"{shown(path)}:{line}"
        raise RecipeError(
            f"{where}: not YAML: {error.problem}; check indentation, colons and tabs"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{shown(path)}: not YAML: {' '.join(str(error).split())}; remove it"
        ) from None
    except RecursionError:
        raise RecipeError(f"{shown(path)}: nested too deeply; a recipe has few levels") from None
    if node is not None:
        document.root = _Converter(document).convert(node, (), ())
    return document


class _Converter:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = yaml.SafeLoader("")
        self.count = 0

    def convert(self, node: yaml.Node, steps: Steps, above: tuple[yaml.Node, ...]) -> Any:
        self.count += 1
        if self.count > LIMIT or node in above:
            raise RecipeError(
                f"{self._at(node)}: aliases expand to more than {LIMIT} values; write it without them"
            )
        self.document.lines[steps] = node.start_mark.line + 1
        if not node.tag.startswith(_PLAIN):
            fix = "use plain text, numbers, lists and maps"
            raise RecipeError(f"{self._at(node)}: tag '{node.tag}' is not allowed; {fix}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, steps, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [
                self.convert(child, (*steps, i), (*above, node))
                for i, child in enumerate(node.value)
            ]
        try:
            return self.constructor.construct_object(node)
        except (
            yaml.YAMLError,
            ValueError,
            LookupError,
            AttributeError,
        ):  # as its constructors fail on bad text
            what = node.tag.rpartition(":")[2]
            fix = "put it in quotes if it is text"
            raise RecipeError(f"{self._at(node)}: {node.value!r} is no {what}; {fix}") from None

    def _at(self, node: yaml.Node) -> str:
        return f"{shown(self.document.path)}:{node.start_mark.line + 1}"

    def _mapping(
        self, node: yaml.MappingNode, steps: Steps, above: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if (
                not isinstance(key_node, yaml.ScalarNode)
                or key_node.tag == "tag:yaml.org,2002:merge"
            ):
                raise RecipeError(f"{self._at(key_node)}: a key must be a plain word; write it out")
            key = str(key_node.value)
            if key in found:
                raise RecipeError(f"{self._at(key_node)}: '{key}' is given twice; remove one")
            found[key] = self.convert(value_node, (*steps, key), above)
            self.document.lines[*steps, key] = key_node.start_mark.line + 1
        return found


def substitute(document: Document, variables: Mapping[str, Any], skip: str = "variables") -> Any:
    """The document with `${name}` replaced: a value that is nothing else keeps the variable's type, others become
    text. `${env:NAME}` comes from the environment. RecipeError for an unknown name."""

    def value_of(name: str, steps: Steps) -> Any:
        if name.startswith("env:"):
            if name[4:] not in os.environ:
                raise RecipeError(
                    f"{document.at(*steps)}: environment variable '{name[4:]}' is not set; set it"
                )
            document.secret.add(steps)
            return os.environ[name[4:]]
        if name not in variables:
            raise RecipeError(
                f"{document.at(*steps)}: unknown variable '{name}'; {suggest(name, variables)}"
            )
        if variables[name] is None:
            document.unset[steps] = name
        return variables[name]

    def with_texts(value: str, steps: Steps) -> str:
        values = {match: value_of(match, steps) for match in _VARIABLE.findall(value)}
        for unset in (match for match, own in values.items() if own is None):
            raise RecipeError(
                f"{document.at(*steps)}: variable '{unset}' is not set; run with --set {unset}=..."
            )
        text = _VARIABLE.sub(lambda match: str(values[match[1]]), value)
        first = _VARIABLE.match(value)
        return (
            FromCommandLine(text)
            if first and isinstance(values[first[1]], FromCommandLine)
            else text
        )

    def walk(value: Any, steps: Steps) -> Any:
        if isinstance(value, dict):
            return {
                k: v if not steps and k == skip else walk(v, (*steps, k)) for k, v in value.items()
            }
        if isinstance(value, list):
            return [walk(item, (*steps, i)) for i, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _VARIABLE.fullmatch(value)
        return value_of(whole[1], steps) if whole else with_texts(value, steps)

    return walk(document.root, ())


def name(text: Any, where: str, what: str) -> str:
    """A name the user chose, fit to be shown and stored; RecipeError for one that could be a path."""
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise RecipeError(
            f"{where}: {what} name {text!r} is not allowed; use letters, digits, '.', '_' and '-'"
        )
    return text
