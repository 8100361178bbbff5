"""A board that has nothing but Python, and the wheels that it lacks."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

import qpipe
from qpipe.types import Finding


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has no package, pip neither."""
    folder = tmp_path_factory.mktemp("bare") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin/python"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real wheels for this machine: ONNX Runtime and what it needs."""
    folder = tmp_path_factory.mktemp("wheels")
    wanted = [f"onnxruntime=={version('onnxruntime')}", f"numpy=={version('numpy')}"]
    asked = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        *wanted,
    ]
    ended = subprocess.run(asked, capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.skip(f"pip fetches no wheels here: {ended.stderr.strip().splitlines()[-1]}")
    return folder


def set_up(device: qpipe.Device, **options: object) -> dict[str, Finding]:
    """The lines of a setup by what they are of; the last one of each."""
    asked = {"wheels": None, "runtime": None, "system_runtime": False, **options}
    return by_what(device.setup(**asked))  # type: ignore[attr-defined]


def bring(device: qpipe.Device, wheels: Path) -> dict[str, Finding]:
    """The lines of a setup up to the proof, which is left out."""
    found = {}
    for finding in device.setup(wheels=wheels, runtime=None, system_runtime=False):  # type: ignore[attr-defined]
        found[finding.what] = finding
        if finding.what == "installed":
            break
    return found


def by_what(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def write_wheel(
    folder: Path, name: str, files: dict[str, bytes], needs: Iterable[str] = ()
) -> None:
    """A wheel that pip takes for any machine."""
    info = f"{name}-1.0.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, each in content.items():
            archive.writestr(path, each)
        rows = [f"{path},sha256={_encoded(each)},{len(each)}\n" for path, each in content.items()]
        archive.writestr(f"{info}/RECORD", "".join(rows))


def _encoded(content: bytes) -> str:
    """A digest as wheels record it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
