"""Checks of every stage: whatever can change its result is in the key of its steps."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from qpipe.engine import cache_keys
from qpipe.engine.cache_keys import code_files
from qpipe.recipe.stage_call import Call, plain
from qpipe.stages.options import options
from qpipe.stages.registry import OWN_DISTRIBUTION, Stage
from qpipe.testing.checks import Subject, require
from qpipe.testing.option_checks import candidate_values

DRIVERS = ("device", "power")


def key_depends_on_options(subject: Subject, folder: Path) -> str:
    """Require that the key changes with the value of each option."""
    call = subject.call()
    key = _key(call)
    changed = 0
    for option in options(subject.stage.function).values():
        if option.stage_kind:
            continue
        for value in candidate_values(option):
            if plain(value) == plain(call.options[option.name]):
                continue
            other = Call(call.stage, {**call.options, option.name: value})
            require(_key(other) != key, f"option '{option.name}' is not in the key")
            changed += 1
            break
    return f"{changed} options changed, each changes the key"


def key_depends_on_code(subject: Subject, folder: Path) -> str:
    """Require that the files of the stage's code, and those of its distribution, are in the key."""
    stage = subject.stage
    digested = {path.resolve() for path in code_files(stage).values()}
    module = sys.modules[stage.function.__module__]
    home = Path(str(module.__file__)).resolve()
    require(home in digested, f"{home.name}, which has the function, is not in the key")
    if stage.distribution != OWN_DISTRIBUTION:
        for path in _loaded_files(stage):
            problem = f"{path.name} of {stage.distribution} is not in the key; put it in a package"
            require(path in digested, problem)
    return f"{len(digested)} files, this stage's and those it imports"


def _key(call: Call) -> str:
    return cache_keys.key(cache_keys.of_call(call))


def _loaded_files(stage: Stage) -> list[Path]:
    """Return the modules of a distribution that are imported, as files."""
    try:
        distribution = importlib.metadata.distribution(stage.distribution)
    except importlib.metadata.PackageNotFoundError:  # a file that a recipe names
        return []
    packages = {name.partition(".")[0] for name in _module_names(distribution)}
    files = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and name.partition(".")[0] in packages:
            files.append(Path(path).resolve())
    return files


def _module_names(distribution: importlib.metadata.Distribution) -> set[str]:
    """Return the names of the modules that a distribution installs or registers."""
    names = {entry.module for entry in distribution.entry_points if entry.group == "qpipe"}
    for file in distribution.files or ():
        if file.suffix == ".py" and len(file.parts) <= 2:
            names.add(file.parts[0].removesuffix(".py"))
    return names
