"""Wheels for the Python of a device, downloaded on this machine.

pip does it, with its configuration here: index, proxy, certificates.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from qpipe.digests import digest_file
from qpipe.errors import DeviceError
from qpipe_devices.setup.bare_board import Probe

# minor versions of glibc 2 with which the manylinux tags of an architecture begin
OLDEST_GLIBC = {"aarch64": 17, "armv7l": 17, "x86_64": 5, "i686": 5}
DEFAULT_OLDEST_GLIBC = 17
# tags from before PEP 600, by minor version of glibc 2
LEGACY_MANYLINUX = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
REQUIREMENT = re.compile(r"(onnxruntime[a-z-]*)((==|<=|>=|<|>|~=|!=)[\w.*+,<=>!~]+)?")
# phrases of pip where the wheels that it finds do not fit
NO_MATCH_PHRASES = (
    "No matching distribution found",
    "Could not find a version",
    "conflicting dependencies",
)
# phrases of pip where it does not reach the index
UNREACHABLE_PHRASES = ("Retrying (", "Could not fetch URL")


@dataclass(frozen=True)
class Wheel:
    """A wheel on this machine: its digest, and its bytes packed and unpacked."""

    path: Path
    sha256: str
    size: int
    unpacked_size: int

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Return the wheel in a file."""
        with zipfile.ZipFile(path) as archive:
            unpacked_size = sum(member.file_size for member in archive.infolist())
        return cls(path, digest_file(path), path.stat().st_size, unpacked_size)


def check_requirement(device_name: str, requirement: str) -> str:
    """Return a requirement without spaces; raise DeviceError where it is not an onnxruntime."""
    compact = requirement.replace(" ", "")
    if not REQUIREMENT.fullmatch(compact):
        raise DeviceError(
            f"{device_name}: --runtime '{requirement}' is not a runtime that setup can install; "
            "give onnxruntime or a variant of it, as in onnxruntime==1.24.3",
            failure="configuration",
        )
    return compact


def download_wheels(
    device_name: str,
    board: Probe,
    requirement: str,
    *,
    target: Path,
    wheel_folder: Path | None,
) -> list[Wheel]:
    """Download a requirement and its dependencies for a device's Python into the folder `target`.

    They come from `wheel_folder` alone, or from pip's index. Raise DeviceError with pip's message
    where it fails.
    """
    command = [
        *_find_pip(device_name),
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        board["python"],
        "--abi",
        board["abi"],
        "--dest",
        str(target),
    ]
    for tag in platform_tags(board["arch"], libc=board["libc"], version=board["libc_version"]):
        command += ["--platform", tag]
    environment = None
    if wheel_folder:
        command += ["--no-index", "--find-links", str(wheel_folder.absolute())]
        environment = _environment_without_pip_settings()
    command += [requirement, "numpy"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        source = str(wheel_folder) if wheel_folder else "the registry"
        raise _download_error(device_name, board, requirement, source=source, output=result.stderr)
    return [Wheel.read(path) for path in sorted(target.glob("*.whl"))]


def platform_tags(architecture: str, *, libc: str, version: str) -> list[str]:
    """Return the platform tags of wheels that a device can load, the newest first.

    `version` is that of its C library. The tags are those of PEP 600, 599, 571, 513 and 656.
    """
    linux_tag = f"linux_{architecture}"
    major, _, minor = version.partition(".")
    if not minor.isdigit():
        return [linux_tag]
    tags = []
    if libc == "musl":
        for musl_minor in range(int(minor), -1, -1):
            tags.append(f"musllinux_{major}_{musl_minor}_{architecture}")
    else:
        oldest = OLDEST_GLIBC.get(architecture, DEFAULT_OLDEST_GLIBC)
        for glibc_minor in range(int(minor), oldest - 1, -1):
            tags.append(f"manylinux_{major}_{glibc_minor}_{architecture}")
            if glibc_minor in LEGACY_MANYLINUX:
                tags.append(f"{LEGACY_MANYLINUX[glibc_minor]}_{architecture}")
    return [*tags, linux_tag]


def describe_python(board: Probe) -> str:
    """Return a device's Python in words: Python 3.11.2 on aarch64, glibc 2.36."""
    libc = f"{board['libc']} {board['libc_version']}".strip() or "an unknown libc"
    return f"Python {board['python']} on {board['arch']}, {libc}"


def _find_pip(device_name: str) -> list[str]:
    """Return the command of a pip on this machine."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    program = shutil.which("pip3") or shutil.which("pip")
    if program is None:
        raise DeviceError(
            f"{device_name}: there is no pip on this machine to download wheels with; "
            f"install it: {sys.executable} -m ensurepip"
        )
    return [program]


def _environment_without_pip_settings() -> dict[str, str]:
    """Return an environment in which pip looks only where its arguments say."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    return environment


def _download_error(
    device_name: str, board: Probe, requirement: str, *, source: str, output: str
) -> DeviceError:
    """Return the error for pip's output: no wheel fits, or pip does not work."""
    reason = _last_error(output)
    if _contains(output, NO_MATCH_PHRASES) and not _contains(output, UNREACHABLE_PHRASES):
        message = (
            f"{source} has no wheels of {requirement} for {describe_python(board)} "
            f"(pip: {reason}); "
            "give wheels of your own by --wheels DIR, "
            "or install it there and pass --use-system-runtime"
        )
    else:
        message = (
            f"pip could not download {requirement}: {reason}; "
            "see pip's configuration (index-url, proxy, cert), or give a folder by --wheels DIR"
        )
    return DeviceError(f"{device_name}: {message}", failure="configuration")


def _last_error(output: str) -> str:
    """Return pip's last error, or its last line where it marks none as an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if errors:
        return errors[-1]
    if lines:
        return lines[-1]
    return "it gave no reason"


def _contains(output: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in output for phrase in phrases)
