"""Safe YAML that records the line of every value, for messages that name file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qpipe.errors import RecipeError, shown, suggest

# nodes after expansion of aliases: far above any recipe, far below an alias bomb
MOST_NODES = 20_000
MOST_CHARACTERS = 1_000_000  # of a file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN_TAGS = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")

Steps = tuple[str | int, ...]  # the keys and indices that lead to a value


class FromCommandLine(str):
    """A text given with --set; a path in it is relative to the working directory."""

    __slots__ = ()


@dataclass
class Document:
    """A YAML file as plain Python values, with the line of each."""

    path: Path
    text: str
    root: Any
    lines: dict[Steps, int] = field(default_factory=dict)
    # values that are null because the named variable is
    unset: dict[Steps, str] = field(default_factory=dict)
    # values that come from the environment: never stored
    secret: set[Steps] = field(default_factory=set)

    def at(self, *steps: str | int) -> str:
        """Return `file:line` of the value at these keys, or of its nearest parent."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return f"{shown(self.path)}:{self.lines.get(steps, 1)}"


def read(path: Path) -> Document:
    """Read a YAML file; raise RecipeError for anything that is not plain, safe YAML."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise RecipeError(f"{shown(path)}: no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = f"{shown(path)}: cannot be read: {error}; give a YAML file in UTF-8"
        raise RecipeError(reason) from None
    if len(text) > MOST_CHARACTERS:
        raise RecipeError(
            f"{shown(path)}: longer than {MOST_CHARACTERS} characters; give a YAML file"
        )
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """Parse YAML text; `path` is used in messages only."""
    document = Document(path, text, None)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, path) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{shown(path)}: not YAML: {reason}; remove it") from None
    except RecursionError:
        raise RecipeError(f"{shown(path)}: nested too deeply; a recipe has few levels") from None
    if node is not None:
        document.root = _Converter(document).convert(node, (), ())
    return document


def _syntax_error(error: yaml.MarkedYAMLError, path: Path) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    return RecipeError(
        f"{shown(path)}:{line}: not YAML: {error.problem}; check indentation, colons and tabs"
    )


class _Converter:
    """Converts the nodes of one document to Python values."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = yaml.SafeLoader("")
        self.node_count = 0

    def convert(self, node: yaml.Node, steps: Steps, parents: tuple[yaml.Node, ...]) -> Any:
        """Return the value of a node and record its line."""
        self.node_count += 1
        if self.node_count > MOST_NODES or node in parents:
            reason = f"aliases expand to more than {MOST_NODES} values; write it without them"
            raise RecipeError(f"{self._at(node)}: {reason}")
        self.document.lines[steps] = node.start_mark.line + 1
        if not node.tag.startswith(_PLAIN_TAGS):
            fix = "use plain text, numbers, lists and maps"
            raise RecipeError(f"{self._at(node)}: tag '{node.tag}' is not allowed; {fix}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, steps, (*parents, node))
        if isinstance(node, yaml.SequenceNode):
            children = (*parents, node)
            return [
                self.convert(child, (*steps, index), children)
                for index, child in enumerate(node.value)
            ]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        # the errors are those that PyYAML's constructors raise on malformed text
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            type_name = node.tag.rpartition(":")[2]
            reason = f"{node.value!r} is no {type_name}; put it in quotes if it is text"
            raise RecipeError(f"{self._at(node)}: {reason}") from None

    def _at(self, node: yaml.Node) -> str:
        return f"{shown(self.document.path)}:{node.start_mark.line + 1}"

    def _mapping(
        self, node: yaml.MappingNode, steps: Steps, parents: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in values:
                raise RecipeError(f"{self._at(key_node)}: '{key}' is given twice; remove one")
            values[key] = self.convert(value_node, (*steps, key), parents)
            self.document.lines[*steps, key] = key_node.start_mark.line + 1
        return values

    def _key(self, node: yaml.Node) -> str:
        is_merge = node.tag == "tag:yaml.org,2002:merge"
        if not isinstance(node, yaml.ScalarNode) or is_merge:
            raise RecipeError(f"{self._at(node)}: a key must be a plain word; write it out")
        return str(node.value)


def substitute(document: Document, variables: Mapping[str, Any], skip: str = "variables") -> Any:
    """Return the document's values with each `${name}` replaced.

    A value that consists of one `${name}` gets the variable's type; in a longer text the variable
    is inserted as text. `${env:NAME}` reads the environment. The top-level key `skip` is left as it
    is. Raise RecipeError for an unknown name.
    """
    return _Substitution(document, variables, skip).replace(document.root, ())


class _Substitution:
    """Replaces the variables of one document."""

    def __init__(self, document: Document, variables: Mapping[str, Any], skip: str) -> None:
        self.document = document
        self.variables = variables
        self.skip = skip

    def replace(self, value: Any, steps: Steps) -> Any:
        if isinstance(value, dict):
            return {name: self._replace_key(name, item, steps) for name, item in value.items()}
        if isinstance(value, list):
            return [self.replace(item, (*steps, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _VARIABLE.fullmatch(value)
        if whole:
            return self._variable(whole[1], steps)
        return self._text(value, steps)

    def _replace_key(self, name: str, item: Any, steps: Steps) -> Any:
        if not steps and name == self.skip:
            return item
        return self.replace(item, (*steps, name))

    def _variable(self, name: str, steps: Steps) -> Any:
        if name.startswith("env:"):
            return self._environment_variable(name.removeprefix("env:"), steps)
        if name not in self.variables:
            where = self.document.at(*steps)
            raise RecipeError(
                f"{where}: unknown variable '{name}'; {suggest(name, self.variables)}"
            )
        value = self.variables[name]
        if value is None:
            self.document.unset[steps] = name
        return value

    def _environment_variable(self, name: str, steps: Steps) -> str:
        if name not in os.environ:
            where = self.document.at(*steps)
            raise RecipeError(f"{where}: environment variable '{name}' is not set; set it")
        self.document.secret.add(steps)
        return os.environ[name]

    def _text(self, text: str, steps: Steps) -> str:
        values = {name: self._variable(name, steps) for name in _VARIABLE.findall(text)}
        for name, value in values.items():
            if value is None:
                where = self.document.at(*steps)
                raise RecipeError(
                    f"{where}: variable '{name}' is not set; run with --set {name}=..."
                )
        replaced = _VARIABLE.sub(lambda match: str(values[match[1]]), text)
        # what begins with a path of the command line is a path of the command line
        first = _VARIABLE.match(text)
        if first and isinstance(values[first[1]], FromCommandLine):
            return FromCommandLine(replaced)
        return replaced


def checked_name(text: Any, where: str, what: str) -> str:
    """Return a name that the user chose; raise RecipeError for one that could be a path."""
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise RecipeError(
            f"{where}: {what} name {text!r} is not allowed; use letters, digits, '.', '_' and '-'"
        )
    return text
