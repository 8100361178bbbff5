"""A function with its options, written to a folder so that it runs where qpipe is not installed.

The folder holds call.json and, where the function can run elsewhere, its module with all that this
imports (below code/), and the files that its options name (below files/). A module can run
elsewhere if it imports the standard library, numpy, Pillow, and modules of its own package, of its
own folder or of qpipe that can, and nothing else.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from qpipe.engine.python_imports import ImportedName, module_files, read_imports
from qpipe.samples import sample_feeds

CALL = "call.json"
CODE = "code"
FILES = "files"
LIBRARIES = ("numpy", "PIL")  # what who runs it elsewhere has to install
HINT = "it may import the standard library, numpy, Pillow, and own modules that import no more"


class PortableCall(TypedDict, total=False):
    """What call.json holds: the function, or the reason why it does not run elsewhere."""

    module: str
    function: str
    about: str  # its docstring
    options: dict[str, Any]  # all of them, but those that are files
    files: dict[str, str]  # option -> path in the folder
    reason: str


class _NotPortableError(Exception):
    """A function does not run elsewhere; the text says why."""


def write_call(folder: Path, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Write a function with its options into a new folder, or why it does not run elsewhere."""
    try:
        call = _portable_call(function, options)
        modules = _modules(function.__module__) | _modules(sample_feeds.__name__)
    except _NotPortableError as error:
        write_reason(folder, str(error))
        return
    for name, path in modules.items():
        _copy(path, folder / CODE / name)
    for option, name in call["files"].items():
        _copy(options[option], folder / name)
    _write(folder, call)


def write_reason(folder: Path, reason: str) -> None:
    """Write into a new folder why there is no function that runs elsewhere."""
    _write(folder, {"reason": reason})


def write_decoder(folder: Path, decode: Callable[..., Any] | None) -> None:
    """Write what a Dataset decodes files by into a new folder; None where it does not say."""
    if decode is None:
        write_reason(folder, "its stage gives no function that decodes a file")
    elif isinstance(decode, functools.partial) and not decode.args:
        write_call(folder, decode.func, decode.keywords)
    else:
        write_call(folder, decode, {})


def read_call(folder: Path) -> PortableCall:
    """Return what was written into a folder."""
    call: PortableCall = json.loads((folder / CALL).read_text(encoding="utf-8"))
    return call


def _write(folder: Path, call: PortableCall) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CALL).write_text(json.dumps(call, indent=1) + "\n", encoding="utf-8")


# ---- the call


def _portable_call(function: Callable[..., Any], options: Mapping[str, Any]) -> PortableCall:
    name = getattr(function, "__qualname__", repr(function))
    module = sys.modules.get(getattr(function, "__module__", ""))
    if getattr(module, name, None) is not function:
        raise _NotPortableError(f"{name} is not a function of a module")
    files = {}
    values = {}
    for option, value in {**_defaults(function), **options}.items():
        if not isinstance(value, Path):
            values[option] = _as_json(option, value)
        elif value.is_file():
            files[option] = f"{FILES}/{option}/{value.name}"
        else:
            raise _NotPortableError(f"its option '{option}' is {value}, which is not a file")
    return {
        "module": function.__module__,
        "function": name,
        "about": inspect.getdoc(function) or "",
        "options": values,
        "files": files,
    }


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    defaults = {}
    for parameter in inspect.signature(function).parameters.values():
        has_default = parameter.default is not parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY and has_default:
            defaults[parameter.name] = parameter.default
    return defaults


def _as_json(option: str, value: Any) -> Any:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = ""
    if not text or not _has_text_keys(value):
        raise _NotPortableError(f"its option '{option}' is not JSON")
    return json.loads(text)


def _has_text_keys(value: Any) -> bool:
    """Whether mappings in a value have texts as keys, which JSON makes of other keys."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_has_text_keys, value))
    return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# ---- its code


def _modules(module_name: str) -> dict[str, Path]:
    """Return the files of a module and of all that it imports, by their places below code/.

    Raise _NotPortableError where one cannot run elsewhere.
    """
    package = module_name.partition(".")[0]
    file = Path(inspect.getfile(sys.modules[module_name]))
    suffix = "/__init__.py" if file.stem == "__init__" else ".py"
    modules: dict[str, Path] = {}
    pending = [(module_name.replace(".", "/") + suffix, file)]
    while pending:
        place, file = pending.pop()
        if place in modules:
            continue
        modules[place] = file
        imports = read_imports(file)
        if not imports.is_complete:
            raise _NotPortableError(f"{place} can run code that no import statement names")
        for imported in imports.names:
            names = _absolute_names(imported, place)
            if names[0] not in sys.stdlib_module_names and names[0] not in LIBRARIES:
                pending.append(_own_module(names, package, place))
    return modules


def _absolute_names(imported: ImportedName, place: str) -> tuple[str, ...]:
    if not imported.level:
        return imported.names
    return (*Path(place).parts[: -imported.level], *imported.names)


def _own_module(names: tuple[str, ...], package: str, importer: str) -> tuple[str, Path]:
    """Return place and file of the module that names are taken from.

    It belongs to `package`, lies beside it, or is qpipe's; raise _NotPortableError for any other.
    """
    folder = _folder_of(names[0])
    beside = {_folder_of(package)} - {_folder_of("numpy")}
    is_own = names[0] in (package, "qpipe") or folder in beside
    # the last file is the module; those before it are packages on the way
    files = module_files(names, folder)[-1:] if folder and is_own else []
    if folder is None or [file.suffix for file in files] != [".py"]:
        raise _NotPortableError(f"{importer} imports {names[0]}; {HINT}")
    place = files[0].relative_to(folder).as_posix()
    if place == "qpipe/__init__.py":
        fix = "import names from their modules, such as qpipe.errors"
        raise _NotPortableError(f"{importer} imports qpipe itself; {fix}")
    return place, files[0]


def _folder_of(package: str) -> Path | None:
    """Return the folder that a top-level package or module lies in; None where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin else None
