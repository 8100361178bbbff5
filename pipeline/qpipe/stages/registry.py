"""Find plugins, hold what they registered, and look it up with a helpful word when it is not there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pluggy

from qpipe import hookspecs
from qpipe.errors import PluginError, suggest
from qpipe.types import Kind, Target

KINDS: tuple[str, ...] = get_args(Kind)
OURS = "qpipe-edge"  # the distribution that this is
DEMANDS = tuple(Target.__dataclass_fields__)


@dataclass(frozen=True)
class Stage:
    """A registered stage: a function under a kind and a name, and where it came from."""

    kind: str
    name: str
    function: Callable[..., Any]
    distribution: str  # name of the distribution, or the file named in the recipe
    version: str
    cached: bool = True  # its result holds for as long as what it was made from
    gives: tuple[str, ...] = ()  # metrics that it measures, where it says so
    demands: Mapping[str, bool] = field(
        default_factory=dict
    )  # of quantization, as fields of Target
    runtime: str = ""  # what a device must have installed for its builds to run
    plugin: str = ""  # the module that registered it
    enrol: hookspecs.Enrol | None = None  # how devices of this kind become known, where they must

    @property
    def help(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass
class Registry:
    """All that plugins brought, and why some did not come."""

    stages: dict[tuple[str, str], Stage] = field(default_factory=dict)
    devices: dict[str, Stage] = field(default_factory=dict)
    powers: dict[str, Stage] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    hooks: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("qpipe"))

    def __post_init__(self) -> None:
        self.hooks.add_hookspecs(hookspecs)

    def stage(self, kind: str, name: str, where: str = "") -> Stage:
        """The stage of that kind and name; PluginError with the near miss otherwise."""
        if (kind, name) in self.stages:
            return self.stages[kind, name]
        return _unknown(f"{kind} '{name}'", name, self.names(kind), self.broken, where)

    def device(self, name: str, where: str = "") -> Stage:
        """The kind of device of that name; PluginError with the near miss otherwise."""
        if name in self.devices:
            return self.devices[name]
        return _unknown(f"device '{name}'", name, self.devices, self.broken, where)

    def power(self, name: str, where: str = "") -> Stage:
        """The way of that name to switch a device; PluginError with the near miss otherwise."""
        if name in self.powers:
            return self.powers[name]
        return _unknown(f"power '{name}'", name, self.powers, self.broken, where)

    def names(self, kind: str) -> list[str]:
        """The stages there are of a kind, sorted."""
        return sorted(name for of, name in self.stages if of == kind)

    def add(self, plugin: Any, source: str, distribution: str, version: str) -> None:
        """Take what one plugin registers; PluginError where a name is taken or a hook is misspelt."""
        self.hooks.register(plugin, name=source)
        try:
            self.hooks.check_pending()
        except pluggy.PluginValidationError as error:
            self.hooks.unregister(plugin)
            wrong = str(error).partition(" in plugin ")[0]
            raise PluginError(f"plugin '{source}': {wrong}; there is {_hook_names()}") from error

        module = getattr(inspect.getmodule(plugin), "__name__", "")

        def register(
            kind: str,
            function: Callable[..., Any],
            *,
            name: str | None = None,
            cached: bool = True,
            gives: Sequence[str] = (),
            demands: Mapping[str, bool] | None = None,
            runtime: str = "",
        ) -> None:
            if kind not in KINDS:
                raise PluginError(
                    f"plugin '{source}': unknown kind '{kind}'; {suggest(kind, KINDS)}"
                )
            for demand in demands or {}:
                if demand not in DEMANDS:
                    raise PluginError(
                        f"plugin '{source}': unknown demand '{demand}'; {suggest(demand, DEMANDS)}"
                    )
            called = name or function.__name__
            asked = dict(demands or {})
            stage = Stage(
                kind,
                called,
                function,
                distribution,
                version,
                cached,
                tuple(gives),
                asked,
                runtime,
                module,
            )
            _take(self.stages, (kind, stage.name), stage)

        def register_device(
            function: Callable[..., Any],
            *,
            name: str | None = None,
            enrol: hookspecs.Enrol | None = None,
        ) -> None:
            stage = Stage(
                "device", name or function.__name__, function, distribution, version, enrol=enrol
            )
            _take(self.devices, stage.name, stage)

        def register_power(function: Callable[..., Any], *, name: str | None = None) -> None:
            stage = Stage("power", name or function.__name__, function, distribution, version)
            _take(self.powers, stage.name, stage)

        before = dict(self.stages), dict(self.devices), dict(self.powers)
        try:
            if hasattr(plugin, "register_stages"):
                plugin.register_stages(register)
            if hasattr(plugin, "register_devices"):
                plugin.register_devices(register_device)
            if hasattr(plugin, "register_power"):
                plugin.register_power(register_power)
        except BaseException:
            self.stages, self.devices, self.powers = before  # all it brings, or nothing
            self.hooks.unregister(plugin)
            raise


def load(files: Sequence[Path] = ()) -> Registry:
    """Every installed plugin, then the files a recipe names. An installed plugin that does not load is noted in
    `broken` and stops nobody else; a file that does not load is an error, for the recipe asked for it."""
    registry = Registry()
    entries = importlib.metadata.entry_points(group="qpipe")
    origins = _origins(entries)
    for entry in sorted(entries, key=lambda e: (origins[e.dist][0] != OURS, e.name)):
        source = f"{entry.value}"
        try:
            registry.add(entry.load(), source, *origins[entry.dist])
        except (Exception, SystemExit) as error:  # noqa: BLE001  (foreign code: whatever it raises is its own failure)
            registry.broken[source] = _reason(error)
    for file in files:
        try:
            registry.add(_import_file(file), str(file), file.name, "0")
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{file}: the plugin does not load: {_reason(error)}") from error
    return registry


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, PluginError)
        else f"{type(error).__name__}: {text}".removesuffix(": ")
    )


def _origins(
    entries: Iterable[importlib.metadata.EntryPoint],
) -> dict[importlib.metadata.Distribution | None, tuple[str, str]]:
    """Read name and version of each distribution that brings one of them: once, the file is long."""
    distributions = {entry.dist for entry in entries}
    return {one: (one.name, one.version) if one else ("unknown", "0") for one in distributions}


def _import_file(file: Path) -> Any:
    # two files of one name in two folders are two modules
    name = f"qpipe_file_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise PluginError(
            f"{file}: no such plugin file; give the path of a Python file, relative to the recipe"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # modules beside it
    spec.loader.exec_module(module)
    return module


def _take(shelf: dict[Any, Stage], key: Any, stage: Stage) -> None:
    taken = shelf.get(key)
    if taken is not None:
        one = taken.function.__module__
        two = stage.function.__module__
        raise PluginError(
            f"two plugins offer {stage.kind} '{stage.name}': {one} and {two}; rename one"
        )
    shelf[key] = stage


def _hook_names() -> str:
    return ", ".join(
        name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "qpipe_spec")
    )


def _unknown(what: str, name: str, known: Any, broken: dict[str, str], where: str) -> Stage:
    prefix = f"{where}: " if where else ""
    also = "".join(f"; plugin '{source}' did not load: {why}" for source, why in broken.items())
    raise PluginError(f"{prefix}no plugin offers {what}; {suggest(name, known)}{also}")
