"""The plugins: find and load them, keep what they register, look stages up by kind and name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pluggy

from qpipe import hookspecs
from qpipe.bytecode import no_bytecode
from qpipe.digests import digest_text
from qpipe.errors import PluginError, suggest
from qpipe.stages.options import RENAMED_OPTIONS
from qpipe.types import Kind, Resources, Target

KINDS: tuple[str, ...] = get_args(Kind)
DEMANDS = tuple(Target.__dataclass_fields__)
OWN_DISTRIBUTION = "qpipe-edge"  # the distribution of qpipe itself and of its built-in stages


@dataclass(frozen=True)
class Stage:
    """A registered stage: a function under a kind and a name, and where it comes from."""

    kind: str
    name: str
    function: Callable[..., Any]
    distribution: str  # name of the distribution, or of the file that a recipe names
    version: str
    cached: bool = True  # whether its result depends on its inputs alone, not on the moment
    gives: tuple[str, ...] = ()  # the metrics that it measures, where it names them
    # what its runtime asks of quantization, as fields of Target
    demands: Mapping[str, bool] = field(default_factory=dict)
    runtime: str = ""  # what must be installed on a device for its builds to run there
    # what must be importable on the host, each with what installs it
    modules: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = hookspecs.ONE_THREAD  # what it takes of the host
    plugin: str = ""  # the module that registered it
    enrol: hookspecs.Enrol | None = None  # asks a device of this kind for its identity

    @property
    def help(self) -> str:
        """The first line of the docstring."""
        docstring = inspect.getdoc(self.function) or ""
        return docstring.partition("\n")[0]

    def missing_modules(self) -> list[str]:
        """Return the modules that it needs and that are not installed, each with what installs it.

        They are looked for, not imported.
        """
        return [
            f"{module} is not installed; {install}"
            for module, install in self.modules.items()
            if importlib.util.find_spec(module) is None
        ]


@dataclass
class Registry:
    """Everything that plugins registered, and the reasons why some plugins did not load."""

    stages: dict[tuple[str, str], Stage] = field(default_factory=dict)  # by kind and name
    devices: dict[str, Stage] = field(default_factory=dict)
    powers: dict[str, Stage] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # plugin -> reason
    hooks: pluggy.PluginManager = field(default_factory=lambda: _plugin_manager())

    def stage(self, kind: str, name: str, where: str = "") -> Stage:
        """Return the stage of a kind by name; raise PluginError where there is none."""
        if (kind, name) in self.stages:
            return self.stages[kind, name]
        raise self._unknown(kind, name, self.names(kind), where)

    def device(self, name: str, where: str = "") -> Stage:
        """Return the kind of device of that name; raise PluginError where there is none."""
        if name in self.devices:
            return self.devices[name]
        raise self._unknown("device", name, self.devices, where)

    def power(self, name: str, where: str = "") -> Stage:
        """Return the power switch of that name; raise PluginError where there is none."""
        if name in self.powers:
            return self.powers[name]
        raise self._unknown("power", name, self.powers, where)

    def names(self, kind: str) -> list[str]:
        """Return the names of the stages of a kind, sorted."""
        return sorted(name for stage_kind, name in self.stages if stage_kind == kind)

    def add(self, plugin: Any, *, source: str, distribution: str, version: str) -> None:
        """Call the register hooks of one plugin, and keep all that it registers or nothing.

        Raise PluginError where a name is taken, or where a hook is unknown or takes a parameter
        that it is not called with.
        """
        registration = _Registration(
            self, plugin, source=source, distribution=distribution, version=version
        )
        try:
            registration.call_hooks()
            self.hooks.register(plugin, name=source)
        except pluggy.PluginValidationError as error:
            problem = _describe_invalid_hook(error)
            raise PluginError(f"plugin '{source}': {problem}") from error
        self.stages = registration.stages
        self.devices = registration.devices
        self.powers = registration.powers

    def _unknown(self, kind: str, name: str, names: Iterable[str], where: str) -> PluginError:
        prefix = f"{where}: " if where else ""
        offered_names = list(names)
        for new_name in RENAMED_OPTIONS.get(name, ()):
            if new_name in offered_names:
                return PluginError(f"{prefix}{kind} '{name}' is now named '{new_name}'")
        message = f"{prefix}no plugin offers {kind} '{name}'; {suggest(name, offered_names)}"
        for source, reason in self.broken.items():
            message += f"; plugin '{source}' did not load: {reason}"
        return PluginError(message)


class _Registration:
    """What one plugin registers, on top of a registry that does not change meanwhile."""

    def __init__(
        self, registry: Registry, plugin: Any, *, source: str, distribution: str, version: str
    ) -> None:
        self.plugin = plugin
        self.source = source
        self.distribution = distribution
        self.version = version
        self.module_name = getattr(inspect.getmodule(plugin), "__name__", "")
        self.stages = dict(registry.stages)
        self.devices = dict(registry.devices)
        self.powers = dict(registry.powers)

    def call_hooks(self) -> None:
        """Call the register hooks of this plugin, and of no other, through pluggy.

        Raise pluggy.PluginValidationError for a hook that does not exist, or whose parameters do
        not fit.
        """
        hooks = _plugin_manager()
        hooks.register(self.plugin, name=self.source)
        hooks.check_pending()
        hooks.hook.register_stages(register=self.register_stage)
        hooks.hook.register_devices(register=self.register_device)
        hooks.hook.register_power(register=self.register_power)

    def register_stage(  # noqa: PLR0913  (as hookspecs.Register)
        self,
        kind: str,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        cached: bool = True,
        gives: Sequence[str] = (),
        demands: Mapping[str, bool] | None = None,
        runtime: str = "",
        modules: Mapping[str, str] | None = None,
        resources: Resources = hookspecs.ONE_THREAD,
    ) -> None:
        """Take a stage, as hookspecs.Register describes."""
        demands = dict(demands or {})
        self._check_known("kind", kind, KINDS)
        for demand in demands:
            self._check_known("demand", demand, DEMANDS)
        stage = Stage(
            kind,
            name or function.__name__,
            function,
            self.distribution,
            self.version,
            cached,
            tuple(gives),
            demands,
            runtime,
            dict(modules or {}),
            resources,
            self.module_name,
        )
        _put(self.stages, (kind, stage.name), stage)

    def register_device(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        enrol: hookspecs.Enrol | None = None,
    ) -> None:
        """Take a kind of device, as hookspecs.RegisterDevice describes."""
        name = name or function.__name__
        stage = Stage(
            "device",
            name,
            function,
            self.distribution,
            self.version,
            plugin=self.module_name,
            enrol=enrol,
        )
        _put(self.devices, name, stage)

    def register_power(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        """Take a power switch, as hookspecs.RegisterPower describes."""
        name = name or function.__name__
        stage = Stage(
            "power", name, function, self.distribution, self.version, plugin=self.module_name
        )
        _put(self.powers, name, stage)

    def _check_known(self, what: str, value: str, valid: Sequence[str]) -> None:
        if value not in valid:
            raise PluginError(
                f"plugin '{self.source}': unknown {what} '{value}'; {suggest(value, valid)}"
            )


def load(files: Sequence[Path] = ()) -> Registry:
    """Load every installed plugin, then the plugin files that a recipe names.

    An installed plugin that does not load is noted in `broken` and does not affect the others. A
    file that does not load raises PluginError, for the recipe asks for it.
    """
    registry = Registry()
    for entry, origin in _installed_plugins():
        try:
            _check_version(entry.dist, origin)
            plugin = entry.load()
            registry.add(
                plugin,
                source=entry.value,
                distribution=origin.distribution,
                version=origin.version,
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001  (foreign code: whatever it raises is its own failure)
            registry.broken[entry.value] = _describe_failure(error)
    for file in files:
        try:
            plugin = _import_file(file)
            registry.add(plugin, source=str(file), distribution=file.name, version="0")
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            reason = _describe_failure(error)
            raise PluginError(f"{file}: the plugin does not load: {reason}") from error
    return registry


@dataclass(frozen=True)
class _Origin:
    """The distribution that an installed plugin belongs to."""

    distribution: str = "unknown"
    version: str = "0"


def _installed_plugins() -> list[tuple[importlib.metadata.EntryPoint, _Origin]]:
    """Return the entry points of installed plugins: the built-in ones first.

    A name that two plugins offer is then the fault of the other plugin.
    """
    origins: dict[importlib.metadata.Distribution | None, _Origin] = {None: _Origin()}
    plugins = []
    for entry in importlib.metadata.entry_points(group="qpipe"):
        if entry.dist is not None and entry.dist not in origins:
            metadata = entry.dist.metadata  # parsed anew each time, the whole README with it
            origins[entry.dist] = _Origin(metadata["Name"], metadata["Version"])
        plugins.append((entry, origins[entry.dist]))
    return sorted(
        plugins, key=lambda plugin: (plugin[1].distribution != OWN_DISTRIBUTION, plugin[0].name)
    )


def _check_version(distribution: importlib.metadata.Distribution | None, origin: _Origin) -> None:
    """Raise PluginError where a plugin's distribution requires another version of qpipe."""
    if distribution is None or origin.distribution == OWN_DISTRIBUTION:
        return
    from packaging.requirements import Requirement

    version = importlib.metadata.version(OWN_DISTRIBUTION)
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.name.replace("_", "-").lower() != OWN_DISTRIBUTION:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            fix = f"pip install --upgrade {OWN_DISTRIBUTION} {origin.distribution}"
            raise PluginError(f"it requires {requirement}, this is {version}; {fix}")


def distributions() -> dict[str, str]:
    """Return the distribution of each installed plugin, by the name that its entry point loads."""
    return {entry.value: origin.distribution for entry, origin in _installed_plugins()}


def _import_file(file: Path) -> ModuleType:
    # two files of one name in two folders are two modules
    path_digest = digest_text(str(file.resolve()))
    name = f"qpipe_file_{file.stem}_{path_digest[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        fix = "give the path of a Python file, relative to the recipe"
        raise PluginError(f"{file}: no such plugin file; {fix}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # the file may import modules beside it
    with no_bytecode():
        spec.loader.exec_module(module)
    return module


def _put(stages: dict[Any, Stage], key: Any, stage: Stage) -> None:
    if key in stages:
        first = stages[key].function.__module__
        second = stage.function.__module__
        raise PluginError(
            f"two plugins offer {stage.kind} '{stage.name}': {first} and {second}; rename one"
        )
    stages[key] = stage


def _plugin_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("qpipe")
    manager.add_hookspecs(hookspecs)
    return manager


def _describe_invalid_hook(error: pluggy.PluginValidationError) -> str:
    """Return pluggy's reason in one line, with the hooks that exist where one is unknown."""
    reason, unknown, _ = str(error).partition(" in plugin ")
    reason = " ".join(reason.split())
    if not unknown:
        return f"{reason}; take parameters of the hook's specification alone"
    specifications = vars(hookspecs).items()
    names = [name for name, value in specifications if hasattr(value, "qpipe_spec")]
    return f"{reason}; there is {', '.join(names)}"


def _describe_failure(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")
