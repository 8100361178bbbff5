"""A database from somebody else is data: nothing that it names is opened or run."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(("kind", "key"), [("..", "elsewhere"), ("import", "../../elsewhere")])
def test_export_touches_no_file_that_a_database_names(kind: str, key: str, qpipe: LabShell) -> None:
    places = [Path(".qpipe/elsewhere/manifest.json"), Path("elsewhere/manifest.json")]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        place.touch()
        os.utime(place, (0, 0))
    with edited() as db:
        db.execute("UPDATE steps SET kind = ?, key = ? WHERE step = 'tiny/import'", (kind, key))
    _, err = qpipe("export --device one --scheme snapped -o shipped", 2)
    assert err.endswith("is not the key of a result; run the recipe again\n")
    assert [place.stat().st_mtime for place in places] == [0, 0]


EVERY_READER = (
    "runs",
    "pareto",
    "show one/pace",
    "why recipe.yaml tiny/snapped/snap",
    "compare {run} {run}",
    "devices list",
    "export --device one --scheme snapped -o shipped",
    "db merge .qpipe/results.db --db mine.db",
)


def readers(run: str) -> list[str]:
    return [line.format(run=run) for line in EVERY_READER]


# what somebody made of the tables, and what is told
OTHER_TABLES = (
    (
        "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
        "it has the trigger 't'",
    ),
    (
        "DROP VIEW pareto; CREATE VIEW pareto AS WITH RECURSIVE n(i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "the view 'pareto' is not as qpipe makes it",
    ),
    (
        "ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS WITH RECURSIVE n(i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT r.* FROM r, n",
        "the table 'runs' is not as qpipe makes it",
    ),
    (
        "ALTER TABLE _sqlite_migrations RENAME TO m; CREATE VIEW _sqlite_migrations AS "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT m.* FROM m, n",
        "it has the view '_sqlite_migrations'",
    ),
)


@contextmanager
def restored() -> Iterator[None]:
    """The database as it was, afterwards."""
    content = DB.read_bytes()
    yield
    for suffix in ("-wal", "-shm"):
        DB.with_name(f"{DB.name}{suffix}").unlink(missing_ok=True)
    DB.write_bytes(content)


def test_tables_and_views_that_are_none_of_qpipes_are_refused(qpipe: LabShell) -> None:
    (run,) = (row["id"] for row in qpipe.json("runs"))
    for made, told in OTHER_TABLES:
        with restored():
            with edited() as db:
                db.executescript(made)
            for line in ("runs", "pareto", f"show {run}", "run recipe.yaml"):
                _, err = qpipe(line, 2)
                assert err == f"qpipe: {DB}: not a database of qpipe: {told}; give another file\n"


def test_views_of_the_users_own_are_theirs(qpipe: LabShell) -> None:
    with edited() as db:
        db.executescript("CREATE VIEW mine AS SELECT id FROM runs; CREATE TABLE more (x)")
    assert len(qpipe.json("runs")) == 1


DEEP = "[" * 50_000 + "]" * 50_000


# what somebody wrote into cells, and what one of the commands tells
OTHER_CELLS = (
    ("runs SET objectives = '[]'", "objectives: input should be a valid dictionary"),
    (f"runs SET versions = '{DEEP}'", ""),
    ("runs SET request = '{'", ""),
    ("verdicts SET objectives = '{\"x\": 7}'", "objectives.x: input should be 'min' or 'max'"),
    ("verdicts SET notes = '{\"x\": [7]}'", "notes.x: input should be a valid string"),
    ("verdicts SET ties = '7'", "ties: input should be a valid list"),
    ("run_devices SET capabilities = '{}'", "capabilities.arch: field required"),
    ("devices SET capabilities = '{\"arch\": []}'", "capabilities.arch: input should be"),
    ("measurements SET detail = '7'", "detail: input should be a valid dictionary"),
    ("measurements SET model = 'x', low = 1e308", ""),
    ("steps SET key_fields = '{\"needs\": 7}'", ""),
    ("steps SET error = printf('%.*c', 70000000, 'x')", ""),
    ("steps SET key = NULL", "has no key; run the recipe again"),
    ("steps SET key_fields = NULL", ""),
    ("measurements SET better = 'most'", "better: input should be 'min' or 'max'"),
    ("measurements SET emulated = '[]'", "emulated: input should be 'wall' or 'instructions'"),
    ("steps SET state = char(27) || '[2J'", "state: input should be 'pending'"),
    ("runs SET recipe = char(27) || '[2J', host = char(10)", ""),
)


@pytest.mark.lab
def test_cells_of_other_types_and_sizes_are_one_line(qpipe: LabShell) -> None:
    (run,) = (row["id"] for row in qpipe.json("runs"))
    for change, told in OTHER_CELLS:
        with restored():
            with edited() as db:
                db.execute(f"UPDATE {change}")
            said = [read(qpipe, line) for line in readers(run)]
            assert not told or any(told in err for err in said), change


def read(qpipe: LabShell, line: str) -> str:
    """What a command tells of a database, in one line where it refuses it."""
    status, out, err = qpipe.ended(*line.split())
    assert "\x1b" not in out + err
    assert status in (0, 2), line
    if status:
        assert err.startswith("qpipe: "), line
        assert err.count("\n") == 1, line
        assert len(err) < 500, line
    return err
