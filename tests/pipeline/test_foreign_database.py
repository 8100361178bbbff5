"""A database from somebody else is data: nothing that it names is opened or run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import LabShell

DB = Path(".qpipe/results.db")
MARKER = "qpipe-ran-this"


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    shell = LabShell(tmp_path, monkeypatch, capsys)
    shell("run recipe.yaml")
    return shell


@contextmanager
def edited() -> Iterator[sqlite3.Connection]:
    """The database as its sender may have made it: without the checks of its tables."""
    with closing(sqlite3.connect(DB, isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys=OFF")
        db.execute("PRAGMA ignore_check_constraints=ON")
        yield db


def test_why_runs_no_plugin_that_a_database_names(qpipe: LabShell) -> None:
    evil = qpipe.lab.write(
        "evil.py", f"import pathlib\npathlib.Path({MARKER!r}).write_text('')\n" + scratch_lab.PLUGIN
    )
    text = (qpipe.lab.folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = qpipe.lab.write("evil.yaml", text.replace("stages.py", evil.name))
    with edited() as db:
        db.execute("UPDATE runs SET recipe_path = ?", [str(recipe)])
    assert qpipe.json("why recipe.yaml tiny/snapped/snap")["cached"] is True
    assert not Path(MARKER).exists()


def test_show_prints_no_file_that_a_database_names(qpipe: LabShell) -> None:
    for folder in (".", ".qpipe", ".qpipe/runs"):
        (qpipe.lab.folder / folder / "log.txt").write_text("a secret", encoding="utf-8")
    (run,) = (row["id"] for row in qpipe.json("runs"))
    for name in ("..", "../..", "../../..", "x/../../../..", str(qpipe.lab.folder)):
        with edited() as db:
            db.execute("UPDATE steps SET step = ? WHERE step = 'one/pace'", [name])
        out, _ = qpipe.run("show", name, "--log", "--run", run)
        assert out == "the log is empty\n"
        with edited() as db:
            db.execute("UPDATE steps SET step = 'one/pace' WHERE step = ?", [name])


def test_a_run_whose_id_is_a_path_is_not_merged(qpipe: LabShell) -> None:
    with edited() as db:
        db.execute("UPDATE runs SET id = '../../elsewhere'")
        for table in ("steps", "run_devices", "measurements", "verdicts", "attempts"):
            db.execute(f"UPDATE {table} SET run = '../../elsewhere'")
    _, err = qpipe(f"db merge {DB} --db mine.db", 2)
    assert err.startswith(f"qpipe: {DB}: not a database of qpipe: runs: CHECK constraint failed")


def test_export_takes_no_path_for_a_key(qpipe: LabShell) -> None:
    with edited() as db:
        db.execute(
            "UPDATE steps SET key_fields = json_set(key_fields, '$.needs.build', '../../x') "
            "WHERE step LIKE '%@one'"
        )
    _, err = qpipe("export --device one --scheme snapped -o shipped", 2)
    assert err == (
        "qpipe: .qpipe/cache: '../../x' is not the key of a result; run the recipe again\n"
    )
    assert not Path("shipped").exists()
