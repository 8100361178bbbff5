"""What files import is remembered between commands, by their content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import ast, json, sys
from pathlib import Path

parsed = []
parse = ast.parse
ast.parse = lambda source: parsed.append(source) or parse(source)
from qpipe.engine.python_imports import read_imports

names = sorted(".".join(name.names) for name in read_imports(Path(sys.argv[1])).names)
print(json.dumps([names, len(parsed)]))
"""


def read(file: Path, **environment: str) -> tuple[list[str], int]:
    """What a process of its own says that a file imports, and how many files it parsed."""
    done = subprocess.run(
        [sys.executable, "-c", READ, file], env={**os.environ, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names, parsed = json.loads(done.stdout)
    return names, parsed


def test_a_file_is_parsed_again_only_after_a_change(tmp_path: Path) -> None:
    home = str(tmp_path / "cache")
    file = tmp_path / "plugin.py"
    file.write_text("import numpy\n", encoding="utf-8")
    assert read(file, XDG_CACHE_HOME=home) == (["numpy"], 1)
    assert read(file, XDG_CACHE_HOME=home) == (["numpy"], 0)
    status = file.stat()
    file.write_text("import scipy\n", encoding="utf-8")  # as many bytes
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read(file, XDG_CACHE_HOME=home) == (["scipy"], 1)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": "x", "entries": 3}'])
def test_a_damaged_memo_is_written_anew(content: str, tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("import numpy\n", encoding="utf-8")
    read(file, XDG_CACHE_HOME=str(tmp_path))
    (memo,) = (tmp_path / "qpipe").glob("imports-*.json")
    memo.write_text(content, encoding="utf-8")
    assert read(file, XDG_CACHE_HOME=str(tmp_path)) == (["numpy"], 1)
    assert read(file, XDG_CACHE_HOME=str(tmp_path)) == (["numpy"], 0)


def test_each_version_has_a_memo_and_those_long_unused_go(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("import numpy\n", encoding="utf-8")
    recent, old = (tmp_path / "qpipe" / f"imports-{age}.json" for age in ("recent", "old"))
    recent.parent.mkdir()
    for memo in (recent, old):
        memo.write_text("{}", encoding="utf-8")
    os.utime(old, (0, 0))
    assert read(file, XDG_CACHE_HOME=str(tmp_path)) == (["numpy"], 1)
    memos = sorted(recent.parent.glob("imports-*.json"))
    assert len(memos) == 2
    assert recent in memos
    assert read(file, XDG_CACHE_HOME=str(tmp_path)) == (["numpy"], 0)


def test_where_it_cannot_be_written_files_are_parsed_each_time(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("import numpy\n", encoding="utf-8")
    (tmp_path / "no folder").write_text("", encoding="utf-8")
    for _ in range(2):
        assert read(file, XDG_CACHE_HOME=str(tmp_path / "no folder")) == (["numpy"], 1)
