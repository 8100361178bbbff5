"""What a step's result depends on, as fields that can be compared, and the key they hash to."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import qpipe
from qpipe.engine.python_imports import imported
from qpipe.recipe.stage_call import Call
from qpipe.stages.registry import OURS, Stage

Fields = dict[str, Any]

_EMPTY = hashlib.sha256().hexdigest()
# what decides numbers on the host; a device's own versions are in its fingerprint
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "pycocotools")
# core code that results pass through
SHARED = (
    "samples/store",
    "samples/preprocess",
    "engine/stage_results",
    "engine/worker",
    "engine/float_reference",
    "compare/intervals",
    "compare/scoring",
)


def key(fields: Mapping[str, Any]) -> str:
    """sha256 of the fields as canonical JSON."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def of_call(call: Call) -> Fields:
    """What a stage and its options contribute: who wrote it, its code, its options, the files these name."""
    stage = call.stage
    stages = [call.stage, *_stages_in(call.options)]
    files = {name: digest(path) for name, path in _paths(call.options, "")}
    return {
        "kind": stage.kind,
        "stage": stage.name,
        "distribution": stage.distribution,
        "version": stage.version,
        "requires": _required(stage.distribution, stage.name),
        "code": {f"{s.kind} {s.name}": code(s) for s in stages},
        "options": call.plain(_named_only)["options"],
        "files": files,
    }


def of_engine(kind: str) -> Fields:
    """What the engine itself contributes to a step that calls no stage: the upload of samples."""
    return {"kind": kind, "version": qpipe.__version__, "code": _digest_code(_core())}


def of_host() -> Fields:
    """What this machine contributes to a result that it computes."""
    return {
        "libraries": libraries(),
        "machine": platform.machine(),
        "instructions": _instructions(),
    }


@cache
def _required(distribution: str, stage: str = "") -> dict[str, str]:
    """The versions of what somebody else's distribution asks for, where it is installed; of ours, what the extra of the
    stage's own name asks for (torch), as all others are LIBRARIES."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # a file named in a recipe
        return {}
    if distribution == OURS:
        extra = re.escape(stage.replace("_", "-"))  # as metadata spells it
        lines = [line for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    found = {}
    for name in (re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@cache
def libraries() -> dict[str, str]:
    """The versions of what computes results here."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@cache
def _instructions() -> str:
    """Digest of the instruction set: kernels, and so roundings, differ with it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]


def code(stage: Stage) -> str:
    """Digest of the code a stage runs: the core's arithmetic and a built-in's module, anybody else's whole top-level
    package, or the file with what it imports of the modules beside it."""
    return _digest_code((*_own_code(stage), *_core()))


def _own_code(stage: Stage) -> list[Path]:
    """Of the module of its function, and of the one that registered it, which may have made it what it is."""
    module = sys.modules[stage.function.__module__]
    if module.__name__.startswith("qpipe_plugins."):
        return _with_neighbours(module)
    modules = [module, sys.modules.get(stage.plugin, module)]
    return sorted({path for each in modules for path in _code_of(each)})


def _code_of(module: ModuleType) -> Iterable[Path]:
    package = sys.modules[module.__name__.partition(".")[0]]
    if hasattr(package, "__path__"):
        return Path(next(iter(package.__path__))).rglob("*.py")
    file = Path(inspect.getfile(module))
    return imported(file) if _alone(file) else [file]


def _with_neighbours(module: ModuleType) -> list[Path]:
    """The files of a built-in's module and of those that it takes names from."""
    found = {module.__name__}
    left = [module]
    while left:
        for value in vars(left.pop()).values():
            name = (
                value.__name__
                if isinstance(value, ModuleType)
                else getattr(value, "__module__", None)
            )
            if isinstance(name, str) and name.startswith("qpipe_plugins.") and name not in found:
                found.add(name)
                left.append(sys.modules[name])
    return sorted(Path(inspect.getfile(sys.modules[name])) for name in found)


def _alone(file: Path) -> bool:
    """Whether the file is one named in a recipe: modules beside it may be its own. Not so in site-packages."""
    return "site-packages" not in file.parts


@cache
def _core() -> tuple[Path, ...]:
    home = Path(__file__).parents[1]
    return (*sorted((home / "quant").rglob("*.py")), *(home / f"{name}.py" for name in SHARED))


def _digest_code(files: tuple[Path, ...]) -> str:
    # a notebook lives on while its plugins are edited
    return _digest_of(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@cache
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    return hashlib.sha256("".join(_sha(file) for file, _, _ in files).encode()).hexdigest()[:16]


def package(stage: Stage) -> str:
    """Digest of a whole top-level package: of a device driver, whose agent and runner decide what is measured."""
    top = sys.modules[stage.function.__module__.partition(".")[0]]
    files = sorted(Path(next(iter(top.__path__))).rglob("*.py")) if hasattr(top, "__path__") else []
    return _digest_code(tuple(files) or (Path(inspect.getfile(top)),))


def digest(path: Path) -> str:
    """sha256 of a file, with the external data of an ONNX model, or of a folder's names and contents."""
    if path.is_dir():
        parts = [f"{file.relative_to(path)} {_sha(file)}" for file in _files(path)]
    else:
        parts = [_sha(file) for file in (path, *_external(path))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _files(folder: Path) -> list[Path]:
    """Every file below, sorted; what cannot be looked at is left out, and our own results and cache, which lie in
    a recipe's folder."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".qpipe", ".git")]
        for file in (Path(root, name) for name in names):
            with suppress(OSError):
                found += [file] if file.is_file() else []
    return sorted(found)


def _sha(file: Path) -> str:
    try:
        if not file.is_file():  # a pipe never ends
            return "missing"
        with file.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:  # nor does many a file of /proc
                return _EMPTY
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "missing"


def _external(path: Path) -> list[Path]:
    if not path.is_file():
        return []
    from qpipe.quant.external_data import external_files

    return external_files(path)


def _stages_in(value: Any) -> Iterable[Stage]:
    if isinstance(value, Call):
        yield value.stage
        yield from _stages_in(value.options)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _stages_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _stages_in(item)


def _paths(value: Any, at: str) -> Iterable[tuple[str, Path]]:
    """Every file or folder that options name, by where in them it stands."""
    if isinstance(value, Path):
        yield at, value
    elif isinstance(value, Call):
        yield from _paths(value.options, at)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _paths(item, f"{at}.{name}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _paths(item, f"{at}.{i}")


def _named_only(path: Path) -> str:
    # where a file lies does not matter, only what is in it
    return path.name
