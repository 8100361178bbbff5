"""Wheels for another machine's Python, fetched here by pip: its configuration (index, proxy, certificates) holds."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpipe.errors import DeviceError

OLDEST_GLIBC = {
    "aarch64": 17,
    "armv7l": 17,
    "x86_64": 5,
    "i686": 5,
}  # minor versions that manylinux begins with
LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # names of before PEP 600
REQUIREMENT = re.compile(r"(onnxruntime[a-z-]*)((==|<=|>=|<|>|~=|!=)[\w.*+,<>=!~]+)?")
NONE_FITS = (
    "No matching distribution found",
    "Could not find a version",
    "conflicting dependencies",
)


@dataclass(frozen=True)
class Wheel:
    """A wheel here, and what it takes: bytes as it travels and unpacked."""

    path: Path
    sha256: str
    size: int
    unpacked: int

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """The wheel in a file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        return cls(path, digest, path.stat().st_size, unpacked)


def check_requirement(name: str, requirement: str) -> str:
    """`requirement` without spaces; DeviceError where it is not one of an onnxruntime."""
    written = requirement.replace(" ", "")
    if not REQUIREMENT.fullmatch(written):
        given = f"--runtime '{requirement}' is no runtime that setup knows"
        fix = "give onnxruntime or a variant of it, as in onnxruntime==1.24.3"
        raise DeviceError(f"{name}: {given}; {fix}", failure="configuration")
    return written


def fetch(
    name: str, board: Mapping[str, Any], requirement: str, folder: Path, wheels: Path | None
) -> list[Wheel]:
    """The wheels of a requirement and of what it needs, for the Python that `board` (what bare.probe said) describes.

    Out of the folder `wheels` alone, or from where pip looks; DeviceError with pip's own word where it finds none.
    """
    source = ["--no-index", "--find-links", str(wheels.absolute())] if wheels else []
    platforms = [word for tag in platform_tags(board) for word in ("--platform", tag)]
    ended = subprocess.run(
        [
            *_pip(name),
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--only-binary=:all:",
            "--implementation",
            "cp",
            "--python-version",
            str(board["python"]),
            "--abi",
            str(board["abi"]),
            *platforms,
            *source,
            "--dest",
            str(folder),
            requirement,
            "numpy",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=_unconfigured() if wheels else None,
    )
    if ended.returncode != 0:
        raise _refused(name, board, requirement, ended.stderr, wheels)
    return [Wheel.read(path) for path in sorted(folder.glob("*.whl"))]


def platform_tags(board: Mapping[str, Any]) -> list[str]:
    """What its wheels may be tagged as, newest first, by PEP 600, 599, 571, 513 and 656."""
    arch = str(board["arch"])
    kind = str(board["libc"])
    major, _, minor = str(board["libc_version"]).partition(".")
    plain = f"linux_{arch}"
    if not minor.isdigit():
        return [plain]
    if kind == "musl":
        return [*(f"musllinux_{major}_{each}_{arch}" for each in range(int(minor), -1, -1)), plain]
    tags = []
    for each in range(int(minor), OLDEST_GLIBC.get(arch, 17) - 1, -1):
        tags.append(f"manylinux_{major}_{each}_{arch}")
        if each in LEGACY:
            tags.append(f"{LEGACY[each]}_{arch}")
    return [*tags, plain]


def described(board: Mapping[str, Any]) -> str:
    """A board's Python in words: Python 3.11.2 on aarch64, glibc 2.36."""
    libc = f"{board['libc']} {board['libc_version']}".strip() or "an unknown libc"
    return f"Python {board['python']} on {board['arch']}, {libc}"


def _pip(name: str) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        fix = f"install it: {sys.executable} -m ensurepip"
        raise DeviceError(f"{name}: there is no pip on this machine to fetch wheels with; {fix}")
    return [found]


def _unconfigured() -> dict[str, str]:
    """An environment in which pip looks nowhere else than it is told."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return {**others, "PIP_CONFIG_FILE": os.devnull}


def _refused(
    name: str, board: Mapping[str, Any], requirement: str, said: str, wheels: Path | None
) -> DeviceError:
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it gave no reason"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    last = (errors or lines)[-1]
    if any(word in said for word in NONE_FITS) and not _unreachable(said):
        place = str(wheels) if wheels else "the registry"
        fix = "give wheels of your own by --wheels DIR, or install it there and say --use-system-runtime"
        reason = f"{place} has no wheels of {requirement} for {described(board)} (pip: {last})"
        return DeviceError(f"{name}: {reason}; {fix}", failure="configuration")
    fix = "see pip's configuration (index-url, proxy, cert), or give a folder by --wheels DIR"
    return DeviceError(
        f"{name}: pip could not fetch {requirement}: {last}; {fix}", failure="configuration"
    )


def _unreachable(said: str) -> bool:
    return "Retrying (" in said or "Could not fetch URL" in said
