"""A stage as written in YAML, `name` or `{name: {options}}`: the one grammar, read and checked."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.digests import digest_text
from qpipe.errors import RecipeError, shown
from qpipe.recipe.yaml_document import Document, FromCommandLine, Steps
from qpipe.stages.options import Option, check, options
from qpipe.stages.registry import Registry, Stage

# kinds that read files, which must exist before anything runs
READING_KINDS = ("samples", "import")


@dataclass(frozen=True)
class Call:
    """A stage with all its options, as a recipe or an inventory asks for it."""

    stage: Stage
    options: Mapping[str, Any]  # plain values; an option that takes stages holds Calls
    secret: frozenset[str] = frozenset()  # options whose values are never stored
    # settings written beside the stage: the samples of a model, the target of a device
    beside: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)  # file:line, for messages

    @property
    def kind(self) -> str:
        return self.stage.kind

    @property
    def name(self) -> str:
        return self.stage.name

    def resolved(self) -> dict[str, Any]:
        """Return the options as the stage's function takes them.

        A postprocess stage becomes a function of outputs; a metric stage becomes its Metric.
        """
        return {name: _resolve(value) for name, value in self.options.items()}

    def plain(self, path_text: Callable[[Path], str] = str) -> dict[str, Any]:
        """Return the call as JSON, for keys and digests; `path_text` converts paths."""
        values = {name: plain(value, path_text) for name, value in self.options.items()}
        for name in self.secret:
            if not isinstance(self.options[name], Path):
                digest = digest_text(repr(values[name]))
                values[name] = f"secret {digest[:16]}"
        return {"kind": self.kind, "name": self.name, "options": values}


def _resolve(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], Call):
        return [_resolve(call) for call in value]
    if not isinstance(value, Call):
        return value
    function = value.stage.function
    resolved_options = value.resolved()
    if value.kind == "postprocess":
        return lambda outputs: function(outputs, **resolved_options)
    return function(**resolved_options)


@dataclass(frozen=True)
class CallByName:
    """A call that names its stage, for another process.

    A function of a plugin file cannot be pickled; the other process looks the name up.
    """

    kind: str
    name: str
    options: Mapping[str, Any]


def calls_by_name(value: Any) -> Any:
    """Replace each Call in a value by a CallByName."""
    if isinstance(value, Call):
        return CallByName(value.kind, value.name, calls_by_name(value.options))
    if isinstance(value, Mapping):
        return {name: calls_by_name(item) for name, item in value.items()}
    if isinstance(value, list):
        return [calls_by_name(item) for item in value]
    return value


def calls_from_names(value: Any, plugins: Registry) -> Any:
    """Replace each CallByName in a value by the Call of the stage it names."""
    if isinstance(value, CallByName):
        stage = plugins.stage(value.kind, value.name)
        return Call(stage, calls_from_names(value.options, plugins))
    if isinstance(value, Mapping):
        return {name: calls_from_names(item, plugins) for name, item in value.items()}
    if isinstance(value, list):
        return [calls_from_names(item, plugins) for item in value]
    return value


def plain(value: Any, path_text: Callable[[Path], str] = str) -> Any:
    """Return a value, with all calls in it, as JSON; `path_text` converts paths."""
    if isinstance(value, Call):
        return value.plain(path_text)
    if isinstance(value, Mapping):
        return {str(name): plain(item, path_text) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, path_text) for item in value]
    if isinstance(value, Path):
        return path_text(value)
    return value


class CallReader:
    """Reads the calls of one document."""

    def __init__(self, source: Document, plugins: Registry) -> None:
        self.source = source
        self.plugins = plugins

    def call(self, kind: str | tuple[str, ...], value: Any, steps: Steps) -> Call:
        """Read `name` or `{name: {options}}` at these keys of the document.

        Where several kinds are allowed, the stage is of the first that has its name.
        """
        where = self.source.at(*steps)
        name, written_options = self.name_and_options(value, where, kind)
        kinds = (kind,) if isinstance(kind, str) else kind
        stage = self.plugins.stage(self._kind_of(name, kinds), name, where)
        call_steps = (*steps, name)
        return Call(
            stage,
            self.options(stage, written_options, call_steps),
            self._secret_options(call_steps),
            where=where,
        )

    def _kind_of(self, name: str, kinds: Sequence[str]) -> str:
        """Return the kind that has a stage of this name, else the one whose names are nearest."""
        for kind in kinds:
            if (kind, name) in self.plugins.stages:
                return kind
        for kind in kinds:
            if difflib.get_close_matches(name, self.plugins.names(kind), 1, 0.75):
                return kind
        return kinds[-1]

    def _secret_options(self, call_steps: Steps) -> frozenset[str]:
        depth = len(call_steps)
        paths = [path for path in self.source.secret if path[:depth] == call_steps]
        return frozenset(str(path[depth]) for path in paths if len(path) > depth)

    def split_companions(self, value: Any, companions: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """Separate a call from settings written beside it, as in `{onnx: {...}, samples: {...}}`.

        Return the call as it would stand alone, and the settings by name.
        """
        if not isinstance(value, dict) or len(value) < 2:
            return value, {}
        settings = {name: value[name] for name in companions if name in value}
        call = {name: item for name, item in value.items() if name not in settings}
        return call, settings

    def name_and_options(
        self, value: Any, where: str, kind: str | tuple[str, ...]
    ) -> tuple[str, dict[str, Any]]:
        """Return the name and the options of a call as they were written."""
        if isinstance(value, str):
            return value, {}
        if isinstance(value, dict) and len(value) == 1:
            ((name, written_options),) = value.items()
            if written_options is None or isinstance(written_options, dict):
                return name, written_options or {}
        raise RecipeError(
            f"{where}: {value!r} names no {_noun(kind)}; write name, or {{name: {{option: value}}}}"
        )

    def options(self, stage: Stage, written: dict[str, Any], steps: Steps) -> dict[str, Any]:
        """Return a stage's options, checked and with defaults filled in.

        Paths become absolute; stages that are options become calls.
        """
        known_options = options(stage.function)
        self._refuse_unset(stage, written, steps)
        where = f"{self.source.at(*steps)}: {stage.kind} {stage.name}"
        places: dict[str, str] = {}
        located: dict[str, Any] = {}
        for name, value in written.items():
            places[name] = f"{self.source.at(*steps, name)}: {stage.kind} {stage.name}"
            located[name] = self._located(known_options.get(name), value)
        checked = check(stage.function, located, where, places)
        if stage.kind in READING_KINDS:
            for name, value in checked.items():
                self._check_exists(value, places.get(name, where), name)
        return {
            name: self._stage_option(known_options[name], value, (*steps, name))
            for name, value in checked.items()
        }

    def _refuse_unset(self, stage: Stage, written: dict[str, Any], steps: Steps) -> None:
        """Raise RecipeError where options have the value of variables that are not set."""
        known_options = options(stage.function)
        variables: dict[str, str] = {}
        for name in written:
            variable = self.source.unset.get((*steps, name))
            if variable and not _takes_none(known_options.get(name)):
                variables[name] = variable
        if not variables:
            return
        first = next(iter(variables))
        names = ", ".join(f"'{name}'" for name in variables)
        subject = f"option {names} is" if len(variables) == 1 else f"options {names} are"
        fix = " ".join(f"--set {variable}=..." for variable in dict.fromkeys(variables.values()))
        where = f"{self.source.at(*steps, first)}: {stage.kind} {stage.name}"
        raise RecipeError(f"{where}: {subject} not set; run with {fix}")

    def _check_exists(self, value: Any, where: str, name: str) -> None:
        values = value if isinstance(value, list) else [value]
        for path in values:
            if not isinstance(path, Path):
                continue
            if not _exists(path):
                fix = "give an existing path, relative to the recipe"
                note = "(with --set, to the working directory)"
                reason = f"option '{name}': no such file or folder: {shown(path)}"
                raise RecipeError(f"{where}: {reason}; {fix} {note}")
            if path == path.parent:
                reason = f"option '{name}' is {str(path)!r}, the root of the file system"
                raise RecipeError(f"{where}: {reason}; give a folder in it")

    def _located(self, option: Option | None, value: Any) -> Any:
        """Return a value with the paths in it absolute, where the option takes paths."""
        if option is None or not _takes_path(option.annotation):
            return value
        if isinstance(value, list):
            return [self._located(option, item) for item in value]
        if not isinstance(value, str):
            return value
        if isinstance(value, FromCommandLine):
            folder = Path.cwd()
        else:
            folder = self.source.path.parent.resolve()
        return str(folder / Path(value).expanduser())

    def _stage_option(self, option: Option, value: Any, steps: Steps) -> Any:
        """Return the value of an option with stages in it as calls; metrics always in a list."""
        kind = option.stage_kind
        if kind is None or value is None:
            return value
        if isinstance(value, list | tuple):
            return [self.call(kind, item, (*steps, index)) for index, item in enumerate(value)]
        call = self.call(kind, value, steps)
        return [call] if kind == "metric" else call


def _noun(kind: str | tuple[str, ...]) -> str:
    if kind in ("device", "power"):
        return str(kind)
    kinds = kind if isinstance(kind, str) else " or ".join(kind)
    return f"{kinds} stage"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the path is too long, or its links form a circle
        return False


def _takes_path(annotation: Any) -> bool:
    if annotation is Path:
        return True
    return any(_takes_path(argument) for argument in typing.get_args(annotation))


def _takes_none(option: Option | None) -> bool:
    # an unknown option is refused later, with a message of its own
    return option is None or type(None) in typing.get_args(option.annotation)
