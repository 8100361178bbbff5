"""A stage as someone wrote it in YAML: the one grammar, `name` or `{name: {options}}`, read and checked."""

from __future__ import annotations

import difflib
import hashlib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import RecipeError
from qpipe.recipe.yaml_document import Document, FromCommandLine, Steps, shown
from qpipe.stages.options import Option, check, options
from qpipe.stages.registry import Registry, Stage


@dataclass(frozen=True)
class Call:
    """A stage with its options, all filled in, as a recipe (or an inventory) asks for it."""

    stage: Stage
    options: Mapping[str, Any]  # plain values; an option that takes stages holds Calls
    secret: frozenset[str] = frozenset()  # options whose values are never stored
    beside: Mapping[str, Any] = field(
        default_factory=dict
    )  # written beside it: a model's samples, a device's target
    where: str = field(default="", compare=False)  # file:line, for messages

    @property
    def kind(self) -> str:
        return self.stage.kind

    @property
    def name(self) -> str:
        return self.stage.name

    def resolved(self) -> dict[str, Any]:
        """The options as the function wants them: postprocess stages bound, metric stages made, metrics in a list."""
        return {name: _resolve(value) for name, value in self.options.items()}

    def plain(self, path: Callable[[Path], str] = str) -> dict[str, Any]:
        """As JSON, for keys and digests; `path` says how paths are written."""
        options = {name: plain(value, path) for name, value in self.options.items()}
        for name in self.secret:
            if not isinstance(self.options[name], Path):
                options[name] = (
                    "secret " + hashlib.sha256(repr(options[name]).encode()).hexdigest()[:16]
                )
        return {"kind": self.kind, "name": self.name, "options": options}


def _resolve(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], Call):
        return [_resolve(call) for call in value]
    if not isinstance(value, Call):
        return value
    own = value.resolved()
    if value.kind == "postprocess":
        return lambda outputs: value.stage.function(outputs, **own)
    return value.stage.function(**own)


@dataclass(frozen=True)
class Named:
    """A call that another process can look up for itself: functions of a plugin file do not cross."""

    kind: str
    name: str
    options: Mapping[str, Any]


def named(value: Any) -> Any:
    """A value with its calls made fit to cross to another process."""
    if isinstance(value, Call):
        return Named(value.kind, value.name, named(value.options))
    if isinstance(value, Mapping):
        return {name: named(item) for name, item in value.items()}
    return [named(item) for item in value] if isinstance(value, list) else value


def found(value: Any, plugins: Registry) -> Any:
    """The value again, on the other side."""
    if isinstance(value, Named):
        return Call(plugins.stage(value.kind, value.name), found(value.options, plugins))
    if isinstance(value, Mapping):
        return {name: found(item, plugins) for name, item in value.items()}
    return [found(item, plugins) for item in value] if isinstance(value, list) else value


def plain(value: Any, path: Callable[[Path], str] = str) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Call):
        return value.plain(path)
    if isinstance(value, Mapping):
        return {str(k): plain(v, path) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, path) for item in value]
    return path(value) if isinstance(value, Path) else value


READING = ("samples", "import")  # kinds whose paths are there before anything runs


class CallReader:
    """Reads the calls of one document."""

    def __init__(self, source: Document, plugins: Registry) -> None:
        self.source = source
        self.plugins = plugins

    def call(self, kind: str | tuple[str, ...], value: Any, steps: Steps) -> Call:
        """`name` or `{name: {options}}` -> a call; the stage is of the kind, or of the first of these that has it."""
        where = self.source.at(*steps)
        name, given = self.named(value, where, kind)
        kinds = (kind,) if isinstance(kind, str) else kind
        near = [k for k in kinds if difflib.get_close_matches(name, self.plugins.names(k), 1, 0.75)]
        of = next((k for k in kinds if (k, name) in self.plugins.stages), (*near, kinds[-1])[0])
        stage = self.plugins.stage(of, name, where)
        own = (*steps, name)
        secret = {
            str(path[len(own)])
            for path in self.source.secret
            if path[: len(own)] == own and path != own
        }
        return Call(stage, self.options(stage, given, own), frozenset(secret), where=where)

    def accompanied(self, value: Any, companions: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """A call written beside settings of its own, as `{onnx: {...}, samples: {...}}`: the call, and the settings."""
        if not isinstance(value, dict) or len(value) < 2:
            return value, {}
        beside = {name: value[name] for name in companions if name in value}
        return {name: own for name, own in value.items() if name not in beside}, beside

    def named(
        self, value: Any, where: str, kind: str | tuple[str, ...]
    ) -> tuple[str, dict[str, Any]]:
        """The name and the options as they were written."""
        if isinstance(value, str):
            return value, {}
        if isinstance(value, dict) and len(value) == 1:
            ((name, given),) = value.items()
            if given is None or isinstance(given, dict):
                return name, given or {}
        what = (
            kind
            if kind in ("device", "power")
            else f"{kind if isinstance(kind, str) else ' or '.join(kind)} stage"
        )
        raise RecipeError(
            f"{where}: {value!r} names no {what}; write name, or {{name: {{option: value}}}}"
        )

    def options(self, stage: Stage, given: dict[str, Any], steps: Steps) -> dict[str, Any]:
        """Options checked and filled in, paths made absolute, stages that are options turned into calls."""
        known = options(stage.function)
        where = f"{self.source.at(*steps)}: {stage.kind} {stage.name}"
        unset = {
            n: v
            for n in given
            if (v := self.source.unset.get((*steps, n))) and not _takes_none(known.get(n))
        }
        if unset:
            place = f"{self.source.at(*steps, next(iter(unset)))}: {stage.kind} {stage.name}"
            names = ", ".join(f"'{name}'" for name in unset)
            what = f"option {names} is" if len(unset) == 1 else f"options {names} are"
            fix = " ".join(f"--set {variable}=..." for variable in dict.fromkeys(unset.values()))
            raise RecipeError(f"{place}: {what} not set; run with {fix}")
        given = {n: self._located(known.get(n), v) for n, v in given.items()}
        places = {n: f"{self.source.at(*steps, n)}: {stage.kind} {stage.name}" for n in given}
        checked = check(stage.function, given, where, places)
        if stage.kind in READING:
            for name, value in checked.items():
                self._check_exists(value, places.get(name, where), name)
        return {n: self._stages(known[n], v, (*steps, n)) for n, v in checked.items()}

    def _check_exists(self, value: Any, where: str, name: str) -> None:
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not _exists(path):
                fix = "give one that exists, relative to the recipe (with --set, to the working directory)"
                raise RecipeError(
                    f"{where}: option '{name}': no such file or folder: {shown(path)}; {fix}"
                )
            if isinstance(path, Path) and path == path.parent:
                raise RecipeError(
                    f"{where}: option '{name}' is {str(path)!r}, the whole machine; give a folder in it"
                )

    def _located(self, option: Option | None, value: Any) -> Any:
        if option is None or not _takes_path(option.annotation):
            return value
        if isinstance(value, list):
            return [self._located(option, item) for item in value]
        if not isinstance(value, str):
            return value
        base = (
            Path.cwd() if isinstance(value, FromCommandLine) else self.source.path.parent.resolve()
        )
        return str(base / Path(value).expanduser())

    def _stages(self, option: Option, value: Any, steps: Steps) -> Any:
        kind = option.stage_kind
        if kind is None or value is None:
            return value
        many = isinstance(value, list | tuple)
        if not many:
            return (
                [self.call(kind, value, steps)]
                if kind == "metric"
                else self.call(kind, value, steps)
            )
        return [self.call(kind, item, (*steps, i)) for i, item in enumerate(value)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any there could be, links in a circle
        return False


def _takes_path(annotation: Any) -> bool:
    return annotation is Path or any(
        _takes_path(argument) for argument in typing.get_args(annotation)
    )


def _takes_none(option: Option | None) -> bool:
    return option is None or type(None) in typing.get_args(
        option.annotation
    )  # an unknown one is told later
