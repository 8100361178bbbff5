"""A new environment with distributions installed by pip; it sees what is installed here, and nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def install(folder: Path, projects: Sequence[Path]) -> Path:
    """The Python of a new environment in a folder, with these projects."""
    python = make_environment(folder)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "install", *options, *projects])
    return python


def make_environment(folder: Path) -> Path:
    """The Python of a new environment in a folder, without pip."""
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
    python = folder / "venv" / "bin" / "python"
    own = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    here = sysconfig.get_path("purelib")
    # addsitedir, for an editable install is a .pth file in there
    (Path(own) / "here.pth").write_text(
        f"import site; site.addsitedir({here!r})\n", encoding="utf-8"
    )
    return python


def run(words: Sequence[Any], text: str | None = None, folder: Path | None = None) -> str:
    """What a command prints; it has to end well."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "SLIPCOVER_"))  # of the tests that run here
    }
    ended = subprocess.run(
        words,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def qpipe_command(python: Path) -> list[Any]:
    """The words that begin a qpipe command in an environment."""
    return [python, "-c", "from qpipe.cli import main; main()"]
