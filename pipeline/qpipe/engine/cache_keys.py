"""What a step's result depends on, as fields that can be compared, and the key they hash to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import qpipe
from qpipe.digests import digest_bytes, digest_file, digest_json, digest_text
from qpipe.engine.code_digest import CodeDigests, driver_files, engine_code, stage_files
from qpipe.recipe.stage_call import Call
from qpipe.stages.registry import OWN_DISTRIBUTION, Stage

Fields = dict[str, Any]  # JSON, for `qpipe why` to compare field by field

# what decides numbers on the host; a device's own versions are in its fingerprint
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "pycocotools")
IGNORED_FOLDERS = (".qpipe", ".git")  # qpipe's results and cache lie in a recipe's folder
MISSING = "missing"
_EMPTY = digest_bytes(b"")


def key(fields: Mapping[str, Any]) -> str:
    """Return the sha256 of the fields as canonical JSON."""
    return digest_json(fields, default=str)


def of_call(call: Call, digests: CodeDigests | None = None) -> Fields:
    """Return what a stage with its options contributes.

    That is who wrote it, its code, its options, and the files that these name.
    """
    stage = call.stage
    stages = [stage, *_stages_in(call.options)]
    digests = digests or CodeDigests()
    code = {f"{used.kind} {used.name}": digests.of_stage(used) for used in stages}
    files = {name: digest(path) for name, path in _paths_in(call.options, "")}
    return {
        "kind": stage.kind,
        "stage": stage.name,
        "distribution": stage.distribution,
        "version": stage.version,
        "requires": _required_versions(stage.distribution, stage.name),
        "code": code,
        "options": call.plain(_file_name)["options"],
        "files": files,
    }


def code_files(stage: Stage) -> Mapping[str, Path]:
    """Return the files that the code in a key is the digest of: those of a stage, or a driver."""
    return driver_files(stage) if stage.kind == "device" else stage_files(stage)


def of_engine(kind: str) -> Fields:
    """Return what the engine contributes to a step without a stage: the upload of samples."""
    return {"kind": kind, "version": qpipe.__version__, "code": engine_code()}


def of_host(stage: Stage | None = None) -> Fields:
    """Return what this machine contributes to a result that it computes, by this stage if any.

    What uses GPUs where there are some gives other numbers there than on processors.
    """
    if stage is not None and stage.resources.gpus and gpu_count():
        return of_host() | {"gpu": True}
    return {
        "libraries": libraries(),
        "machine": platform.machine(),
        "instructions": _instruction_set(),
    }


def gpu_count() -> int:
    """Return how many of NVIDIA's GPUs this machine has."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


@cache
def _required_versions(distribution: str, stage: str = "") -> dict[str, str]:
    """Return the installed versions of what a distribution requires.

    Of qpipe's own distribution it is what the extra of the stage's name requires (torch): LIBRARIES
    has the rest.
    """
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # a file named in a recipe
        return {}
    if distribution == OWN_DISTRIBUTION:
        extra = re.escape(stage.replace("_", "-"))  # as metadata spells it
        pattern = re.compile(rf"extra == ['\"]{extra}['\"]")
        requirements = [line for line in requirements if pattern.search(line)]
    versions = {}
    for line in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@cache
def libraries() -> dict[str, str]:
    """Return the versions of the libraries that compute results on this machine."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@cache
def _instruction_set() -> str:
    """Return a digest of the CPU's features: kernels, and so roundings, differ with them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    features = sorted(flags[0].split()) if flags else []
    return digest_text(" ".join(features))[:16]


# ---- what options name


def _stages_in(value: Any) -> Iterator[Stage]:
    if isinstance(value, Call):
        yield value.stage
    for _, item in _items(value):
        yield from _stages_in(item)


def _paths_in(value: Any, place: str) -> Iterator[tuple[str, Path]]:
    """Yield every file or folder that options name, with its place in them: table.0."""
    if isinstance(value, Path):
        yield place, value
    for name, item in _items(value):
        yield from _paths_in(item, f"{place}.{name}".removeprefix("."))


def _items(value: Any) -> Sequence[tuple[Any, Any]]:
    """Return what an option's value holds, by name or position."""
    if isinstance(value, Call):
        value = value.options
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return ()


def _file_name(path: Path) -> str:
    """Return the name of a path: where a file lies does not matter, only what is in it."""
    return path.name


# ---- digests of data


def digest(path: Path) -> str:
    """Return the sha256 of a file with an ONNX model's external data, or of a folder.

    That of a folder is of the names and the contents of the files in it.
    """
    if path.is_dir():
        files = _files_below(path)
        lines = [f"{file.relative_to(path)} {_file_digest(file)}" for file in files]
    else:
        lines = [_file_digest(file) for file in (path, *_external_files(path))]
    return digest_text("\n".join(lines))


def _files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, but what cannot be looked at."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        for name in names:
            file = Path(root, name)
            with suppress(OSError):
                if file.is_file():
                    files.append(file)
    return sorted(files)


def _file_digest(file: Path) -> str:
    try:
        if not file.is_file():  # reading a pipe would never end
            return MISSING
        if not file.stat().st_size:  # nor would reading many a file of /proc
            return _EMPTY
        return digest_file(file)
    except OSError:
        return MISSING


def _external_files(path: Path) -> list[Path]:
    if not path.is_file():
        return []
    from qpipe.quant.external_data import external_files

    return external_files(path)
