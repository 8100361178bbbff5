"""Which files of its folder a Python file runs, read from its import statements."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qpipe.engine.code_digest import files_of_plugin

FILES = {
    "beside.py": "import second\n",
    "second.py": "import beside\n",
    "other.py": "",
    "alone/module.py": "",
    "helpers/__init__.py": "",
    "helpers/deep.py": "from .wide import ONE\n",
    "helpers/wide.py": "ONE = 1\n",
    "helpers/__main__.py": "",
    "helpers/inner/__init__.py": "",
    "helpers/inner/far.py": "from ..wide import ONE\nfrom . import near\n",
    "helpers/inner/near.py": "",
    "data/deep/down/notes.py": "",
    "venv/lib/python.py": "",
}
BESIDE = {"beside", "second"}
PACKAGE = {"helpers/__init__"}
DEEP = {*PACKAGE, "helpers/deep", "helpers/wide"}
FAR = {
    *PACKAGE,
    "helpers/inner/__init__",
    "helpers/inner/far",
    "helpers/inner/near",
    "helpers/wide",
}
ALL = {
    name.removesuffix(".py")
    for name in FILES
    if name not in ("data/deep/down/notes.py", "venv/lib/python.py")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def names(folder: Path, text: str) -> set[str]:
    """What a file with this text runs of its folder, without .py and itself."""
    file = folder / "plugin.py"
    file.write_text(text, encoding="utf-8")
    found = files_of_plugin(file)
    assert file in found
    return {path.relative_to(folder).as_posix().removesuffix(".py") for path in found - {file}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import numpy, os, sys", set()),
        ("import beside", BESIDE),
        ("import numpy as np, beside as b", BESIDE),
        ("from beside import second", BESIDE),
        ("from . import other", {"other"}),
        ("from .beside import X", BESIDE),
        ("def late():\n    if 1:\n        import other", {"other"}),
        ("try:\n    import other\nexcept ImportError:\n    pass", {"other"}),
        ("class A:\n    from alone import module", {"alone/module"}),
        ("import helpers", PACKAGE),
        ("import helpers.deep", DEEP),
        ("from helpers import deep", DEEP),
        ("from helpers.deep import ONE", DEEP),
        ("from helpers.inner import far", FAR),
        ("from helpers import *", {name for name in ALL if name.startswith("helpers")}),
        ("from .. import beside", set()),
        ("import os\nos.environ['sys.path'], 'import other'  # import other", set()),
        ("import re\nre.compile('x')\nre.eval = 1", set()),
    ],
)
def test_import_statements_are_followed(folder: Path, text: str, expected: set[str]) -> None:
    assert names(folder, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "import importlib",
        "from importlib import import_module",
        "def f():\n    __import__('other')",
        "exec('import other')",
        "eval('1')",
        "import runpy",
        "from pkgutil import walk_packages",
        "import builtins",
        "import pickle",
        "import subprocess",
        "import sys\nsys.path.insert(0, 'alone')",
        "import sys\nsys.modules['other']",
        "from sys import path",
        "import sys as s",
        "from sys import *",
        "import os\nos.system('python other.py')",
        "from os import execv",
        "import beside\nimport importlib.util",
        "this is (no Python",
    ],
)
def test_what_can_import_otherwise_may_run_everything_beside_it(folder: Path, text: str) -> None:
    assert names(folder, text) == ALL


def test_a_module_that_can_import_otherwise_may_run_everything_too(folder: Path) -> None:
    (folder / "second.py").write_text("exec('')", encoding="utf-8")
    assert names(folder, "import beside") == ALL


def test_a_compiled_module_is_a_file_and_may_import_anything(folder: Path) -> None:
    name = f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    (folder / name).write_bytes(b"\x7fELF\0")
    assert names(folder, "import fast") == {*ALL, name}
    assert names(folder, "import other") == {"other"}


def test_a_file_that_is_edited_is_read_again(folder: Path) -> None:
    assert names(folder, "import other") == {"other"}
    assert names(folder, "import alone.module") == {"alone/module"}


def test_it_finds_what_python_itself_loads(folder: Path) -> None:
    (folder / "beside.py").write_text(
        "import helpers.inner.far\nfrom alone.module import __name__ as name\n", encoding="utf-8"
    )
    text = "import beside\ndef late():\n    from helpers import deep\nlate()\n"
    found = names(folder, text)
    script = "import sys, plugin\nfor m in sys.modules.values(): print(getattr(m, '__file__', None) or '')"
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout  # fmt: skip
    loaded = {Path(line) for line in shown.splitlines() if Path(line).is_relative_to(folder)}
    assert found == {path.relative_to(folder).as_posix().removesuffix(".py") for path in loaded} - {
        "plugin"
    }
