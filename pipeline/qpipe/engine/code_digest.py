"""Digests of the Python code that a step's result depends on, by following import statements.

- Of qpipe's own distribution it is the module of the stage and all that it imports, directly or
  through other modules. A package on the way counts only where a name is taken from it: a kind's
  package imports all stages of the kind, in order to register them.
- Of anyone else's package it is the whole package, and whatever else its distribution installs, for
  such a package may find its modules by any means; and what it imports of qpipe.
- Of a plugin file of a recipe it is the file and what it imports of its folder, packages on the
  way included; everything beside it where it can run code that no import statement names
  (importlib, exec, sys.path, pickle, a process, a compiled module). Files that the code opens by
  itself are not seen: an option of type Path names them.
- Of a device driver it is the whole package, for its agent and its runners decide what is
  measured.
- Of a stage that computes networks by torch it is also the plugins that add operators to those that
  torch computes.

All results pass through stage_results and what that imports.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path
from types import MappingProxyType, ModuleType

import qpipe
from qpipe.digests import digest_file, digest_text
from qpipe.engine import host_step, stage_results
from qpipe.engine.python_imports import (
    ANY_NAME,
    ImportedName,
    Imports,
    module_files,
    read_imports,
)
from qpipe.quant.in_torch import operator_table
from qpipe.stages.registry import OWN_DISTRIBUTION, Stage

# what passes arguments to every stage on the host and writes its result
ENGINE_MODULES = (host_step, stage_results)
# what a plugin may use of qpipe in a way that cannot be followed
ARITHMETIC = "quant"


class CodeDigests:
    """Digests of stages' code, each computed when it is first asked for.

    One of these serves one plan: between two plans, an editor or a notebook may change the files.
    """

    def __init__(self) -> None:
        self._digests: dict[tuple[str, str], str] = {}

    def of_stage(self, stage: Stage) -> str:
        """Return the digest of the code that a stage runs."""
        return self._remember(stage, stage_files)

    def of_driver(self, driver: Stage) -> str:
        """Return the digest of a device driver's code, which is its whole package."""
        return self._remember(driver, driver_files)

    def _remember(self, stage: Stage, files: Callable[[Stage], Mapping[str, Path]]) -> str:
        name = (stage.kind, stage.name)
        if name not in self._digests:
            self._digests[name] = _digest(files(stage))
        return self._digests[name]


def engine_code() -> str:
    """Return the digest of the engine's own code that every result passes through."""
    return _digest(_own_files(_engine_files()))


def stage_files(stage: Stage) -> Mapping[str, Path]:
    """Return the files of a stage's code, by names that do not depend on where they lie."""
    files = _imported_files(stage)
    if _name_of(_file_of(operator_table)) in files:
        return {**_torch_operator_files(), **files}
    return files


def _imported_files(stage: Stage) -> Mapping[str, Path]:
    module = sys.modules[stage.function.__module__]
    if stage.distribution == OWN_DISTRIBUTION:
        return _own_files(frozenset({_file_of(module), *_engine_files()}))
    # the module that registered the stage may have made the function what it is
    modules = (module, sys.modules.get(stage.plugin, module))
    plugin_files: dict[str, Path] = {}
    for plugin_module in modules:
        plugin_files |= _plugin_files(plugin_module)
    plugin_files |= _installed_files(stage.distribution)
    return {**plugin_files, **_own_files(_engine_files()), **_used_of_qpipe(plugin_files.values())}


def _torch_operator_files() -> Mapping[str, Path]:
    """Return the files of plugins that add operators to those that torch computes."""
    files: dict[str, Path] = {}
    for function in operator_table.OPERATORS.values():
        module = inspect.getmodule(function)
        if module is not None and module.__name__.partition(".")[0] not in _own_packages():
            files |= _plugin_files(module)
    return files


def driver_files(driver: Stage) -> Mapping[str, Path]:
    """Return the files of a device driver's code, by names that do not depend on where they lie."""
    files = _plugin_files(sys.modules[driver.function.__module__])
    if driver.distribution == OWN_DISTRIBUTION:
        return _own_files(frozenset(files.values()))
    files |= _installed_files(driver.distribution)
    return {**files, **_used_of_qpipe(files.values())}


def _engine_files() -> frozenset[Path]:
    return frozenset(_file_of(module) for module in ENGINE_MODULES)


# ---- qpipe's own distribution


@cache
def _own_files(roots: frozenset[Path]) -> Mapping[str, Path]:
    """Return files of qpipe's distribution and all that they import of it.

    That is looked up once: a process runs its own code as it was when it started.
    """
    files: set[Path] = set()
    pending = list(roots)
    while pending:
        file = pending.pop()
        if file not in files:
            files.add(file)
            pending.extend(_own_imports(file))
    return MappingProxyType({_name_of(file): file for file in files})


def _used_of_qpipe(plugin_files: Iterable[Path]) -> Mapping[str, Path]:
    """Return what files of somebody else use of qpipe's distribution."""
    roots: set[Path] = set()
    for file in plugin_files:
        roots |= _own_imports(file)
        if not read_imports(file).is_complete:
            arithmetic = _own_packages()["qpipe"] / ARITHMETIC
            roots.update(arithmetic.rglob("*.py"))
    return _own_files(frozenset(roots))


def _own_imports(file: Path) -> frozenset[Path]:
    status = file.stat()
    return _resolve_own_imports(file, status.st_mtime_ns, status.st_size)


@cache
def _resolve_own_imports(file: Path, _mtime_ns: int, _size: int) -> frozenset[Path]:
    """Return the modules of qpipe's distribution that a file takes names from."""
    modules: set[Path] = set()
    for imported in read_imports(file).names:
        for names in _absolute_names(imported, file):
            modules.update(_own_module(names))
    return frozenset(modules)


@cache
def _own_module(names: tuple[str, ...]) -> list[Path]:
    """Return the module that a name of qpipe's distribution is taken from, if there is one."""
    folder = _own_packages()[names[0]]
    # the last file is the module; those before it are packages on the way
    return module_files(names, folder.parent)[-1:]


def _absolute_names(imported: ImportedName, file: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports of qpipe's distribution, by absolute names."""
    names = imported.names
    if imported.level:
        names = _resolve_relative(imported, file)
    if not names or names[0] not in _own_packages():
        return
    if names[0] != "qpipe":
        yield names
    elif len(names) > 1:  # each use of a name of `import qpipe` is an imported name of its own
        yield from _resolve_lazy(names)


def _resolve_relative(imported: ImportedName, file: Path) -> tuple[str, ...]:
    """Return absolute names, empty where they are not those of a module of qpipe's distribution."""
    package = file.parents[imported.level - 1]
    for folder in _own_packages().values():
        if package.is_relative_to(folder):
            return (*package.relative_to(folder.parent).parts, *imported.names)
    return ()


def _resolve_lazy(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the module that gives a name which `qpipe` itself loads when it is first used."""
    homes: Mapping[str, str] = qpipe._HOME
    if names[1] == ANY_NAME:
        for module in set(homes.values()):
            if not module.startswith("api."):  # it calls stages, and no stage calls it
                yield ("qpipe", *module.split("."))
    elif names[1] in homes:
        yield ("qpipe", *homes[names[1]].split("."))
    else:
        yield names


@cache
def _own_packages() -> dict[str, Path]:
    """Return the folders of the top-level packages of qpipe's distribution, by name."""
    names = {"qpipe"}
    for entry in importlib.metadata.entry_points(group="qpipe"):
        if entry.dist is not None and entry.dist.name == OWN_DISTRIBUTION:
            names.add(entry.module.partition(".")[0])
    folders = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders


@cache
def _name_of(own_file: Path) -> str:
    """Return the name of a file of qpipe's distribution: qpipe/quant/qdq.py."""
    for folder in _own_packages().values():
        if own_file.is_relative_to(folder):
            return own_file.relative_to(folder.parent).as_posix()
    return own_file.name


# ---- plugins of somebody else, and drivers


def _plugin_files(module: ModuleType) -> dict[str, Path]:
    """Return the files of the package that a module belongs to, or what a plugin file imports."""
    package = sys.modules[module.__name__.partition(".")[0]]
    if hasattr(package, "__path__"):
        folder = Path(next(iter(package.__path__)))
        files: Iterable[Path] = folder.rglob("*.py")
        root = folder.parent
    else:
        file = _file_of(module)
        root = file.parent
        is_installed = "site-packages" in file.parts  # modules beside it are not its own
        files = [file] if is_installed else files_of_plugin(file)
    return {path.relative_to(root).as_posix(): path for path in files}


@cache
def _installed_files(distribution: str) -> Mapping[str, Path]:
    """Return the Python files that a distribution has installed; none of a file of a recipe.

    It may have several modules and packages. One that is installed editable lists none.
    """
    try:
        entries = importlib.metadata.files(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return MappingProxyType({})
    files = {entry.as_posix(): Path(str(entry.locate())) for entry in entries}
    return MappingProxyType(
        {name: path for name, path in files.items() if path.suffix == ".py" and path.is_file()}
    )


def files_of_plugin(file: Path) -> set[Path]:
    """Return a plugin file and what it imports of its folder, directly or through other files.

    Where one of these can run code that no import statement names, it is everything beside it.
    """
    files = {file}
    pending = [file]
    while pending:
        current = pending.pop()
        imports = read_imports(current)
        if not imports.is_complete:
            return files | set(_importable_files(file))
        new = _imports_in_folder(imports, current, file.parent) - files
        files |= new
        pending += new
    return files


def _imports_in_folder(imports: Imports, file: Path, home: Path) -> set[Path]:
    """Return the files below `home` that a file's imports run, packages on the way included."""
    files: set[Path] = set()
    for imported in imports.names:
        folder = home
        if imported.level:
            depth = min(imported.level, len(file.parents))
            folder = file.parents[depth - 1]
        if not folder.is_relative_to(home):
            continue
        files.update(module_files(imported.names, folder))
        if imported.names and imported.names[-1] == ANY_NAME:
            # a package names in its __all__ which of its modules are meant
            package = folder.joinpath(*imported.names[:-1])
            if (package / "__init__.py").is_file():
                files.update(package.rglob("*.py"))
    return files


def _importable_files(file: Path) -> list[Path]:
    """Return the modules that a plugin file may import.

    They lie in its folder, in the folders there, and in packages below these. Not all that lies
    below counts: a recipe's folder holds data, results and a cache that others write into.
    """
    modules = []
    suffixes = tuple(all_suffixes())
    for root, folders, names in os.walk(file.parent):
        is_searched = Path(root) == file.parent or "__init__.py" in names
        folders[:] = [name for name in folders if is_searched and not _is_foreign(name)]
        modules += [Path(root) / name for name in names if name.endswith(suffixes)]
    return sorted(path for path in modules if path != file)


def _is_foreign(folder_name: str) -> bool:
    if folder_name.startswith("."):
        return True
    return folder_name in ("site-packages", "node_modules", "venv", "__pycache__")


# ---- digests


def _digest(files: Mapping[str, Path]) -> str:
    lines = []
    for name, path in sorted(files.items()):
        status = path.stat()  # a notebook lives on while its plugins are edited
        lines.append(f"{name} {_file_digest(path, status.st_mtime_ns, status.st_size)}")
    return digest_text("\n".join(lines))[:16]


@cache
def _file_digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return digest_file(path)


def _file_of(module: ModuleType) -> Path:
    return Path(inspect.getfile(module))
