"""The import statements of Python files: read from the source, which is never executed."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path

from qpipe.digests import digest_bytes, digest_file
from qpipe.engine.imports_memo import ImportsMemo, RememberedImports

# modules by which code can run a file that no import statement names
DYNAMIC_MODULES = {
    "importlib",
    "runpy",
    "pkgutil",
    "zipimport",
    "imp",
    "builtins",
    "site",
    "pickle",
    "subprocess",
}
DYNAMIC_NAMES = {
    "__import__",
    "exec",
    "eval",
    "compile",
    "__builtins__",
    "__loader__",
    "__spec__",
    "__path__",
}
DYNAMIC_ATTRIBUTES = {  # module -> prefixes
    "sys": ("path", "modules", "meta_path"),
    "os": ("system", "popen", "exec", "spawn", "posix_spawn"),
}
ANY_NAME = "*"
NAMING_NODES = (ast.Import, ast.ImportFrom, ast.Attribute, ast.Name)


@dataclass(frozen=True)
class ImportedName:
    """What an import statement names: `from ..a import b` is level 2, names ("a", "b").

    The last name is a module, or something that a module defines; ANY_NAME stands for all names.
    """

    level: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Imports:
    """What a file imports, wherever in a function a statement stands.

    Statements for type checkers (`if TYPE_CHECKING:`) are left out: they never run.
    """

    names: frozenset[ImportedName]
    is_complete: bool  # False where the file can also run code that no statement names


UNREADABLE = Imports(frozenset(), is_complete=False)


def read_imports(file: Path) -> Imports:
    """Read the imports of a file; a file that is no Python source may import anything."""
    status = file.stat()
    return _read_imports(file, status.st_mtime_ns, status.st_size)


@cache
def _read_imports(file: Path, _mtime_ns: int, _size: int) -> Imports:
    try:
        source = file.read_bytes()
    except OSError:
        return UNREADABLE
    digest = digest_bytes(source)
    entry = _memo().get(digest)
    if entry is not None:
        return _imports_from_json(entry)
    imports = parse_imports(source)
    _memo().put(digest, _imports_as_json(imports))
    return imports


@cache
def _memo() -> ImportsMemo:
    return ImportsMemo(parser=digest_file(Path(__file__)))


def _imports_as_json(imports: Imports) -> RememberedImports:
    names = [(name.level, list(name.names)) for name in imports.names]
    return {"names": sorted(names), "is_complete": imports.is_complete}


def _imports_from_json(entry: RememberedImports) -> Imports:
    names = (ImportedName(level, tuple(path)) for level, path in entry["names"])
    return Imports(frozenset(names), entry["is_complete"])


def parse_imports(source: bytes) -> Imports:
    """Parse the imports of a source; one that is no Python may import anything."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # no Python, or compiled
        return UNREADABLE
    names: set[ImportedName] = set()
    modules: dict[str, tuple[str, ...]] = {}  # variable -> the module that `import` binds to it
    nodes = [node for node in _nodes_that_run(tree) if isinstance(node, NAMING_NODES)]
    for node in nodes:
        names.update(_imported_names(node))
        if isinstance(node, ast.Import):
            modules.update(_bound_modules(node))
    names.update(_attributes_of_modules(nodes, modules))
    is_complete = not any(_can_run_other_code(node) for node in nodes)
    return Imports(frozenset(names), is_complete)


def _nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that only type checkers see."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def _is_type_checking(test: ast.expr) -> bool:
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING"
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _imported_names(node: ast.AST) -> Iterator[ImportedName]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield ImportedName(0, tuple(alias.name.split(".")))
    elif isinstance(node, ast.ImportFrom):
        module = tuple(node.module.split(".")) if node.module else ()
        for alias in node.names:
            yield ImportedName(node.level, (*module, alias.name))


def _bound_modules(node: ast.Import) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the variables that `import a.b` or `import a.b as c` binds, with their modules."""
    for alias in node.names:
        path = tuple(alias.name.split("."))
        if alias.asname:
            yield alias.asname, path
        else:
            yield path[0], path[:1]


def _attributes_of_modules(
    nodes: Sequence[ast.AST], modules: dict[str, tuple[str, ...]]
) -> Iterator[ImportedName]:
    """Yield `a.b.c` for each use of an attribute of a module that `import a` binds.

    Where the module itself is used, such as in getattr(a, name), that may be any of its names.
    """
    owners: set[ast.AST] = set()  # nodes whose attribute is taken
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owners.add(node.value)
            path = _attribute_path(node)
            if path and path[0] in modules:
                yield ImportedName(0, (*modules[path[0]], *path[1:]))
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in modules and node not in owners:
            yield ImportedName(0, (*modules[node.id], ANY_NAME))


def _attribute_path(node: ast.Attribute) -> tuple[str, ...]:
    """Return ("a", "b", "c") of a.b.c; empty where it does not begin with a variable."""
    path = [node.attr]
    owner = node.value
    while isinstance(owner, ast.Attribute):
        path.append(owner.attr)
        owner = owner.value
    if not isinstance(owner, ast.Name):
        return ()
    path.append(owner.id)
    return tuple(reversed(path))


def _can_run_other_code(node: ast.AST) -> bool:
    """Return whether a node can run a file that no import statement names."""
    if isinstance(node, ast.Name):
        return node.id in DYNAMIC_NAMES
    if isinstance(node, ast.Attribute):
        if not isinstance(node.value, ast.Name):
            return False
        prefixes = DYNAMIC_ATTRIBUTES.get(node.value.id, ())
        return node.attr.startswith(prefixes)
    if isinstance(node, ast.Import):
        return any(_is_dynamic_import(alias) for alias in node.names)
    if isinstance(node, ast.ImportFrom) and not node.level:
        return _is_dynamic_import_from(node)
    return False


def _is_dynamic_import(alias: ast.alias) -> bool:
    if alias.name.partition(".")[0] in DYNAMIC_MODULES:
        return True
    # under another name, uses of its attributes would not be recognized
    return alias.name in DYNAMIC_ATTRIBUTES and alias.asname is not None


def _is_dynamic_import_from(node: ast.ImportFrom) -> bool:
    top = (node.module or "").partition(".")[0]
    if top in DYNAMIC_MODULES:
        return True
    if top not in DYNAMIC_ATTRIBUTES:
        return False
    prefixes = (*DYNAMIC_ATTRIBUTES[top], ANY_NAME)
    return any(alias.name.startswith(prefixes) for alias in node.names)


def module_files(names: tuple[str, ...], folder: Path) -> list[Path]:
    """Return the files that importing names from a folder runs, in this order.

    These are the packages on the way and the module; a compiled module counts like a source file.
    """
    files: list[Path] = []
    place = folder
    suffixes = all_suffixes()
    for name in names:
        if name == ANY_NAME:
            break
        siblings = _entries(place)  # one look at the folder, where most names are not there at all
        modules = [place / (name + suffix) for suffix in suffixes if name + suffix in siblings]
        place = place / name
        if name in siblings:
            modules += [place / f"__init__{suffix}" for suffix in suffixes]
        files += [file for file in modules if file.is_file()]
    return files


def _entries(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()
