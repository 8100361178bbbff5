"""Databases merged, with real SQLite: what is there after, and that the other file is as it was."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import QpipeError
from qpipe.storage.merge import REPLACED_TABLES, RUN_TABLES, SHARED_TABLES, merge
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Measurement

RECIPE: dict[str, Any] = {
    "recipe_path": "a.yaml",
    "recipe_digest": "d1",
    "recipe_text": "name: a\n",
    "versions": {},
}
BOARD = Capabilities(
    arch="aarch64", system="Linux", cpu="Cortex-A72", cores=4, features=("asimd",), memory_mb=3792.0,
    python="3.11.2", numpy="1.24.2", runtimes={}, fingerprint="f00d",
)  # fmt: skip


def measure(store: Store, run: str, scheme: str = "int8", value: float = 4.5) -> None:
    place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
    store.record_measurements(
        run, place, [Measurement("latency_ms", value, "ms", rounds=((1.0, 2.0), (value,)))]
    )
    store.record_verdicts(
        run, [{**place, "on_front": True, "reason": "", "objectives": {}, "margins": {}}]
    )


def new(path: Path, **more: Any) -> str:
    """A finished run with steps, a number and its verdict."""
    with Store(path) as store:
        run = store.new_run("a", **RECIPE)
        for step in ("z/import", "a/quantize"):
            store.record_step(run, step, state="done")
        store.record_devices(run, {"rpi4": BOARD})
        measure(store, run, **more)
        store.finish_run(run, "done")
    return run


def content(path: Path) -> Mapping[str, Any]:
    """All that a plain SQLite client finds, table by table."""
    with closing(sqlite3.connect(path)) as db:
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%migrations'"
        )
        return {
            name: sorted(db.execute(f'SELECT * FROM "{name}"'), key=repr)
            for (name,) in names.fetchall()
        }


def beside(path: Path) -> Mapping[str, str]:
    """The files of its folder with their digests."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()
    }


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here" / "results.db"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "their results.db"


def copied(here: Path, there: Path) -> Path:
    shutil.copy(here, there)
    return there


def test_the_union_has_the_runs_of_both_and_the_other_file_is_untouched(
    here: Path, there: Path
) -> None:
    own, other = new(here), new(there, value=7.0)
    before, untouched = content(there), beside(there)
    (merged,) = merge(here, [there])
    assert (merged.added, merged.replaced, merged.kept, merged.same, merged.measurements) == (
        1,
        0,
        0,
        0,
        1,
    )
    assert merged.told == []
    assert beside(there) == untouched
    with Store(here) as store:
        assert {row["id"] for row in store.runs()} == {own, other}
        assert [row["step"] for row in store.steps(other)] == ["z/import", "a/quantize"]
        (number,) = store.measurements(other)
        assert store.values(number["id"]) == [[1.0, 2.0], [7.0]]
    after = content(here)
    for table, rows in before.items():
        assert set(rows) <= set(after[table])


def test_rounds_and_attempts_come_with_their_run(here: Path, there: Path) -> None:
    new(here)
    told = [
        {"invalid": None, "environment": {"before": {"load": 0.1}}},
        {"invalid": "throttled", "environment": {}},
    ]
    timed = Measurement("latency_ms", 4.5, "ms", rounds=((4.5,), (9.0,)), conditions=told)
    with Store(there) as store:
        run = store.new_run("a", **RECIPE)
        store.record_step(run, "net/latency", state="done")
        for attempt, state in ((1, "failed"), (2, "done")):
            store.record_attempt(
                run, "net/latency", attempt, state=state, failure="died" if attempt == 1 else None
            )
        place = {"model": "net", "scheme": "int8", "build": "ort", "device": "rpi4"}
        store.record_measurements(run, place, [timed], step="net/latency", attempt=2)
        wanted = store.attempts(run, "net/latency")
    merge(here, [there])
    with Store(here) as store:
        assert [row["failure"] for row in wanted] == ["died", None]
        assert store.attempts(run, "net/latency") == wanted
        (number,) = store.measurements(run)
        assert [{name: row[name] for name in told[0]} for row in store.rounds(number["id"])] == told
        assert number["attempt"] == 2


def test_what_a_run_could_not_reach_comes_with_it(here: Path, there: Path) -> None:
    run = new(there)
    with Store(there) as store:
        store.record_unreachable(run, {"rpi5": "rpi5: no route to host"})
    merge(here, [there])
    with Store(here) as store:
        assert store.unreachable(run) == {"rpi5": "rpi5: no route to host"}


def test_a_file_of_the_qpipe_before_brings_in_its_runs(here: Path, there: Path) -> None:
    run = new(there)
    with closing(sqlite3.connect(there)) as db:
        db.executescript(
            "DROP TABLE unreachable_devices; DROP VIEW history;"
            "DELETE FROM _sqlite_migrations WHERE name = 'reports'"
        )
    (merged,) = merge(here, [there])
    assert merged.added == 1
    (again,) = merge(here, [there])
    assert again.same == 1
    with Store(there) as store:  # and is brought up to date when it is opened
        assert store.unreachable(run) == {}


def test_what_became_of_the_devices_there_says_nothing_of_those_here(
    here: Path, there: Path
) -> None:
    run = new(there)
    for path, now in ((here, "good"), (there, "bad")):
        with Store(path) as store:
            store.record_event(
                "rpi4", event="health", was="unknown", now=now, why="it was looked at"
            )
    merge(here, [there])
    with Store(here) as store:
        assert store.run(run)["id"] == run
        assert [row["now"] for row in store.events("rpi4")] == ["good"]
        assert (store.health("rpi4") or {})["health"] == "good"


def test_merging_twice_changes_nothing(here: Path, there: Path) -> None:
    new(here)
    new(there)
    merge(here, [there])
    before = content(here)
    (merged,) = merge(here, [there])
    assert (merged.added, merged.same) == (0, 1)
    assert content(here) == before


def test_a_run_that_was_only_judged_since_is_the_same(here: Path, there: Path) -> None:
    run = new(here)
    copied(here, there)
    with Store(there) as store:
        store.record_verdicts(run, [])
    (merged,) = merge(here, [there])
    assert (merged.same, merged.told) == (1, [])
    with Store(here) as store:
        assert len(store.verdicts(run)) == 1


def test_several_files_are_merged_at_once_into_a_new_one(
    here: Path, there: Path, tmp_path: Path
) -> None:
    third = tmp_path / "third.db"
    runs = {new(there), new(third)}
    assert [merged.added for merged in merge(here, [there, third])] == [1, 1]
    with Store(here) as store:
        assert {row["id"] for row in store.runs()} == runs


def test_a_run_that_is_done_wins_whole_over_one_that_was_cut(here: Path, there: Path) -> None:
    with Store(here) as store:
        run = store.new_run("a", **RECIPE)
        measure(store, run, "int4")
    copied(here, there)
    with Store(there) as store:
        store.resume_run(run)
        store.forget_other_measurements(run, steps=(), unreachable_devices=())
        measure(store, run, "int8")
        store.finish_run(run, "done")
        wanted = content(there)
    with Store(here) as store:
        measure(store, run, "later")  # worked on since, but not done
        store.tag(run, ["mine"])
    (merged,) = merge(here, [there])
    assert (merged.replaced, merged.measurements) == (1, 1)
    (line,) = merged.told
    assert line.startswith(f"run {run}: taken from {there}: there done, worked on until 20")
    assert "; here running, worked on until 20" in line
    assert {**content(here), "tags": []} == {**wanted, "tags": []}
    with Store(here) as store:
        assert store.tags() == {run: ["mine"]}
    with Store(there) as store:  # and the other way round it stays
        store.tag(run, ["theirs"])
    with Store(here) as store:
        store.resume_run(run)
    (back,) = merge(there, [here])
    assert (back.kept, back.replaced) == (1, 0)
    assert f"run {run}: kept as it is here, not as in {here}: there running" in back.told[0]
    with Store(there) as store:
        assert [row["scheme"] for row in store.measurements(run)] == ["int8"]
        assert store.tags() == {run: ["mine", "theirs"]}


def test_of_two_that_were_cut_the_one_worked_on_last_wins(here: Path, there: Path) -> None:
    with Store(here) as store:
        run = store.new_run("a", **RECIPE)
    copied(here, there)
    with Store(there) as store:
        measure(store, run, "first")
    with Store(here) as store:
        measure(store, run, "second")
    (merged,) = merge(here, [there])
    assert merged.kept == 1
    (merged,) = merge(there, [here])
    assert merged.replaced == 1
    with Store(there) as store:
        assert [row["scheme"] for row in store.measurements(run)] == ["second"]


def test_a_device_known_here_keeps_its_last_check(here: Path, there: Path) -> None:
    for path, cpu in ((here, "ours"), (there, "theirs")):
        with Store(path) as store:
            store.save_device("local", cpu, BOARD)
    with Store(there) as store:
        store.save_device("rpi4", "ssh", BOARD)
    (merged,) = merge(here, [there])
    assert merged.devices == 1
    with Store(here) as store:
        assert [(store.device(name) or {})["kind"] for name in ("local", "rpi4")] == ["ours", "ssh"]


def test_a_database_from_before_the_release_is_refused_and_untouched(
    here: Path, there: Path
) -> None:
    with closing(sqlite3.connect(there)) as db:
        db.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, recipe TEXT)")
        db.execute("CREATE TABLE _sqlite_migrations (id INTEGER, migration_set, name, applied_at)")
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('qpipe', 'tables')"
        )
        db.commit()
    untouched = beside(there)
    message = (
        f"{there}: made by a qpipe from before its first release, which this one cannot read; "
        "give a new file with --db, or keep the older qpipe for this one"
    )
    for refused in (lambda: merge(here, [there]), lambda: Store(there)):
        with pytest.raises(QpipeError) as error:
            refused()
        assert str(error.value) == message
        assert beside(there) == untouched


def test_every_table_of_the_store_is_merged_or_stays_with_its_file(here: Path) -> None:
    new(here)
    merged = {*RUN_TABLES, *SHARED_TABLES}
    stays = {"device_events", "leases", "nights", "night_runs", "canaries", "findings", "trials"}
    assert set(content(here)) - merged == stays
    with closing(sqlite3.connect(here)) as db:
        for table in RUN_TABLES:
            owners = {row[2] for row in db.execute(f'PRAGMA foreign_key_list("{table}")')}
            assert table == "runs" or table in REPLACED_TABLES or owners & set(REPLACED_TABLES)


def test_more_files_than_sqlite_attaches_are_refused(here: Path, there: Path) -> None:
    files = [there.with_name(f"{number}.db") for number in range(11)]
    for file in files:
        new(file)
    with pytest.raises(
        QpipeError, match=r"^11 files at once are too many for SQLite; merge at most 10 at a time$"
    ):
        merge(here, files)
    with Store(here) as store:
        assert store.runs() == []
    assert [merged.added for merged in merge(here, files[:10])] == [1] * 10


def test_a_view_in_place_of_a_table_is_not_read(here: Path, there: Path) -> None:
    new(there)
    with closing(sqlite3.connect(there)) as db:
        db.execute("ALTER TABLE tags RENAME TO words")
        db.execute("CREATE VIEW tags AS SELECT * FROM words")
        db.commit()
    with pytest.raises(QpipeError, match="not a database of qpipe: it has no table tags; give"):
        merge(here, [there])


def test_a_database_that_is_being_written_is_merged_as_it_stands(here: Path, there: Path) -> None:
    with Store(there) as store:  # open, with a write-ahead log
        run = store.new_run("a", **RECIPE)
        (merged,) = merge(here, [there])
        assert merged.added == 1
        assert store.new_run("a", **RECIPE) != run


def theirs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE runs (distance REAL)")
        db.commit()


def newer(path: Path) -> None:
    new(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('qpipe', 'energy', '2031')"
        )
        db.commit()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("buy milk\n" * 200), "not a database of qpipe: file is not a database; give"),
        (lambda path: path.touch(), "not a database of qpipe: it has no table runs; give another file"),
        (theirs, "not a database of qpipe: runs has no finished; give another file"),
        (newer, "made by a newer qpipe, which added energy; upgrade qpipe-edge, or give another file"),
        (lambda path: path.mkdir(), "there is no such database; give one that qpipe wrote"),
        (lambda path: None, "there is no such database; give one that qpipe wrote"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_and_nothing_is(
    make: Any, message: str, here: Path, there: Path
) -> None:
    good, wrong = there, there.with_name("wrong.db")
    new(good)
    new(here)
    make(wrong)
    before, untouched = content(here), beside(here)
    with pytest.raises(QpipeError) as error:
        merge(here, [good, wrong])
    assert str(error.value).startswith(f"{wrong}: {message}")
    assert (content(here), beside(here)) == (before, untouched)


def test_a_database_is_not_merged_with_itself(here: Path) -> None:
    new(here)
    with pytest.raises(QpipeError, match="that is the database itself; give another one"):
        merge(here, [here])


def test_a_busy_database_is_waited_for(here: Path, there: Path) -> None:
    new(here)
    new(there)
    blocker = sqlite3.connect(here, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: (blocker.execute("COMMIT"), blocker.close()))
    timer.start()
    (merged,) = merge(here, [there])
    timer.join()
    assert merged.added == 1


def drop_constraints(db: sqlite3.Connection) -> None:
    """Replace the tables by some with the same columns and rows, and no constraints."""
    db.execute("PRAGMA legacy_alter_table=ON")
    for view in ("pareto", "latest", "device_health"):
        db.execute(f"DROP VIEW {view}")
    for table in (*RUN_TABLES, *SHARED_TABLES):
        db.execute(f'ALTER TABLE "{table}" RENAME TO old')
        db.execute(f'CREATE TABLE "{table}" AS SELECT * FROM old')
        db.execute("DROP TABLE old")


@pytest.mark.parametrize(
    ("sql", "wrong"),
    [
        (
            "UPDATE measurements SET value = 'abc'",
            "measurements: cannot store TEXT value in REAL column measurements.value",
        ),
        ("UPDATE measurements SET metric = x'00ff'", "measurements.metric is b'\\x00\\xff'"),
        ("UPDATE measurements SET extra = 'nope'", "measurements: malformed JSON"),
        (
            "UPDATE measurements SET model = NULL",
            "measurements: NOT NULL constraint failed: measurements.model",
        ),
        (
            "UPDATE measurements SET low = 2.0, high = 1.0",
            "measurements: CHECK constraint failed: low <= high",
        ),
        (
            "UPDATE measurements SET better = 'most'",
            "measurements: CHECK constraint failed: better",
        ),
        ("UPDATE runs SET state = 'lost'", "runs: CHECK constraint failed: state IN ("),
        ("UPDATE runs SET versions = '{'", "runs: malformed JSON"),
        (
            "INSERT INTO rounds SELECT id, 0, NULL, '[]' FROM measurements",
            "rounds: CHECK constraint failed: json_type(environment) = 'object'",
        ),
        (
            "INSERT INTO rounds SELECT id, 0, x'00', '{}' FROM measurements",
            "rounds.invalid is b'\\x00'",
        ),
        (
            "UPDATE runs SET recipe = CAST(x'ff' AS TEXT)",
            "Could not decode to UTF-8 column 'recipe' with text '",
        ),
        ("ALTER TABLE measurements DROP COLUMN detail", "measurements has no detail"),
        ("INSERT INTO tags VALUES ('no run', 'good')", "a row of tags belongs to nothing"),
    ],
)
def test_a_file_that_holds_what_qpipe_does_not_write_brings_nothing_in(
    sql: str, wrong: str, here: Path, there: Path
) -> None:
    new(here)
    new(there)
    with closing(sqlite3.connect(there)) as db:
        drop_constraints(db)
        db.execute(sql)
        db.commit()
    before = content(here)
    with pytest.raises(QpipeError) as error:
        merge(here, [there])
    assert str(error.value).startswith(f"{there}: not a database of qpipe: {wrong}")
    assert str(error.value).endswith("; give another file")
    assert content(here) == before
