"""Which files of its folder a Python file runs: by its import statements, read and never executed."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path

# what can run a file that no import statement names
MODULES = {
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
NAMES = {
    "__import__",
    "exec",
    "eval",
    "compile",
    "__builtins__",
    "__loader__",
    "__spec__",
    "__path__",
}
ATTRIBUTES = {
    "sys": ("path", "modules", "meta_path"),
    "os": ("system", "popen", "exec", "spawn", "posix_spawn"),
}

# how far up it is relative, and the names on the way: `from ..a import b` is (2, ("a", "b"))
Statement = tuple[int, tuple[str, ...]]


def imported(file: Path) -> set[Path]:
    """The file, and what it imports of its folder, directly or through one another, wherever in a function it stands.

    Where one of them can run others by other means (importlib, exec, sys.path, pickle, a process, a compiled module)
    it is everything beside the file. Files that the code opens itself are not found: an option of type Path names them.
    """
    found = {file}
    left = [file]
    while left:
        one = left.pop()
        stands = one.stat()
        statements = _statements(one, stands.st_mtime_ns, stands.st_size)
        if statements is None:
            return found | set(beside(file))
        new = {path for each in statements for path in _files(each, one, file.parent)} - found
        found |= new
        left += new
    return found


def beside(file: Path) -> list[Path]:
    """The modules that a file named in a recipe may import: those in its folder, in the folders there, and in packages
    below these. Not all that lies below: a recipe's folder holds data, results and a cache that others write into."""
    found = []
    suffixes = tuple(all_suffixes())
    for root, folders, names in os.walk(file.parent):
        descend = Path(root) == file.parent or "__init__.py" in names
        folders[:] = [folder for folder in folders if descend and not _foreign(folder)]
        found += [Path(root) / name for name in names if name.endswith(suffixes)]
    return sorted(path for path in found if path != file)


def _foreign(part: str) -> bool:
    return part.startswith(".") or part in ("site-packages", "node_modules", "venv", "__pycache__")


@cache
def _statements(file: Path, _changed: int, _size: int) -> frozenset[Statement] | None:
    """What a file imports, as it says; None where that is not all it may import."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # no Python, or compiled
        return None
    if any(_imports_otherwise(node) for node in ast.walk(tree)):
        return None
    return frozenset(statement for node in ast.walk(tree) for statement in _named(node))


def _named(node: ast.AST) -> Iterator[Statement]:
    if isinstance(node, ast.Import):
        yield from ((0, tuple(alias.name.split("."))) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = tuple(node.module.split(".")) if node.module else ()
        yield from ((node.level, (*base, alias.name)) for alias in node.names)


def _imports_otherwise(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in NAMES
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.attr.startswith(
            ATTRIBUTES.get(node.value.id, "\0")
        )
    if isinstance(node, ast.Import):
        tops = {alias.name.partition(".")[0] for alias in node.names}
        return bool(tops & MODULES) or any(
            alias.name in ATTRIBUTES and alias.asname for alias in node.names
        )
    if isinstance(node, ast.ImportFrom) and not node.level:
        top = (node.module or "").partition(".")[0]
        risky = (*ATTRIBUTES.get(top, ()), "*") if top in ATTRIBUTES else ()
        return top in MODULES or any(alias.name.startswith(risky) for alias in node.names)
    return False


def _files(statement: Statement, file: Path, home: Path) -> Iterator[Path]:
    """The files below `home` that a statement of `file` runs: every package on the way, and the module."""
    level, names = statement
    at = home if level == 0 else file.parents[min(level, len(file.parents)) - 1]
    for name in names:
        if not at.is_relative_to(home):
            return
        if name == "*":  # a package says in its __all__ which of its modules come
            yield from at.rglob("*.py") if (at / "__init__.py").is_file() else ()
            return
        at = at / name
        for suffix in all_suffixes():
            yield from (
                path
                for path in (at.with_name(name + suffix), at / f"__init__{suffix}")
                if path.is_file()
            )
