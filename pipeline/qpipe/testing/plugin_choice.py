"""The stages that a name stands for: that of a stage, of a plugin, of a distribution, or a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qpipe.errors import PluginError, RecipeError, suggest
from qpipe.stages import registry
from qpipe.stages.registry import Registry, Stage
from qpipe.testing.checks import CheckResult

LOADS = "plugin loads"


@dataclass(frozen=True)
class ChosenPlugins:
    """The stages to check, and whether the plugins that have them load."""

    plugins: Registry
    stages: Sequence[Stage]
    loaded: Sequence[CheckResult]


def choose_plugins(name: str, kind: str | None = None) -> ChosenPlugins:
    """Return what a name stands for; raise RecipeError where it stands for nothing."""
    file = Path(name)
    if file.suffix == ".py" and file.is_file():
        return _file_plugin(file, kind)
    plugins = registry.load()
    stages = [stage for stage in _all_stages(plugins) if _is_meant(stage, name, kind)]
    origins = {stage.plugin: f"{stage.distribution} {stage.version}" for stage in stages}
    results = [
        CheckResult("plugin", plugin, LOADS, "ok", origin) for plugin, origin in origins.items()
    ]
    distributions = registry.distributions()
    for plugin, reason in plugins.broken.items():
        if name == plugin or _is_same(name, distributions.get(plugin, "")):
            results.append(CheckResult("plugin", plugin, LOADS, "failed", reason))
    if not results:
        raise _unknown(name, kind, plugins)
    return ChosenPlugins(plugins, stages, results)


def _unknown(name: str, kind: str | None, plugins: Registry) -> RecipeError:
    if kind is None:
        names = {stage.name for stage in _all_stages(plugins)}
        problem = f"'{name}' is no stage, plugin or distribution"
    else:
        names = {stage.name for stage in _all_stages(plugins) if stage.kind == kind}
        problem = f"'{name}' is no stage of kind {kind}"
    return RecipeError(f"{problem}; {suggest(name, names)}")


def _file_plugin(file: Path, kind: str | None) -> ChosenPlugins:
    """Load a file as a recipe that names it does."""
    try:
        plugins = registry.load([file])
    except PluginError as error:
        failed = CheckResult("plugin", str(file), LOADS, "failed", str(error))
        return ChosenPlugins(Registry(), (), [failed])
    stages = []
    for stage in _all_stages(plugins):
        if stage.distribution == file.name and kind in (None, stage.kind):
            stages.append(stage)
    return ChosenPlugins(plugins, stages, [CheckResult("plugin", str(file), LOADS, "ok", "a file")])


def _all_stages(plugins: Registry) -> list[Stage]:
    return [*plugins.stages.values(), *plugins.devices.values(), *plugins.powers.values()]


def _is_meant(stage: Stage, name: str, kind: str | None) -> bool:
    if kind is not None and stage.kind != kind:
        return False
    return name in (stage.name, stage.plugin) or _is_same(name, stage.distribution)


def _is_same(first: str, second: str) -> bool:
    """Return whether two names are one to a package index."""
    return _normalized(first) == _normalized(second)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
