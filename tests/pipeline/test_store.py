"""The store, with real SQLite: another connection reads what it wrote."""

from __future__ import annotations

import json
import math
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.errors import QpipeError
from qpipe.storage import database
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Measurement

HERE = {"model": "net", "scheme": "int8-channel", "build": "ort", "device": "rpi4"}
RECIPE: dict[str, Any] = {
    "recipe_path": "a.yaml", "recipe_digest": "d1", "recipe_text": "name: a\n", "versions": {"qpipe": "0.1.0"}
}  # fmt: skip
BOARD = Capabilities(
    arch="aarch64", system="Linux", cpu="Cortex-A72", cores=4, features=("asimd", "crc32"), memory_mb=3792.0,
    python="3.11.2", numpy="1.24.2", runtimes={"onnxruntime": "1.23.0"}, fingerprint="f00d",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results" / "qpipe.db") as opened:
        yield opened


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    """What a plain SQLite client sees."""
    with closing(sqlite3.connect(store.path)) as connection:
        return connection.execute(sql).fetchall()


def metric(name: str = "latency_ms", value: float = 4.5, **fields: Any) -> Measurement:
    return Measurement(name, value, "ms", **fields)


def test_run_ids_differ_and_sort_by_time(store: Store) -> None:
    ids = [store.new_run("a", **RECIPE) for _ in range(20)]
    assert len(set(ids)) == 20
    assert [len(run) for run in ids] == [22] * 20
    assert [row["id"] for row in store.runs()] == ids[::-1]


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    found = store.run(run[:15])
    assert (found["id"], found["recipe"], found["state"], found["finished"]) == (
        run,
        "a",
        "running",
        None,
    )
    assert found["versions"] == {"qpipe": "0.1.0"}


def test_an_unknown_run_is_an_error_that_names_those_there_are(store: Store) -> None:
    with pytest.raises(QpipeError, match=r"^run 'x': there is no such run; there is none yet$"):
        store.run("x")
    run = store.new_run("a", **RECIPE)
    with pytest.raises(QpipeError, match=rf"^run 'x': there is no such run; there is {run}$"):
        store.run("x")


def test_an_ambiguous_run_is_an_error(store: Store) -> None:
    store.new_run("a", **RECIPE)
    store.new_run("a", **RECIPE)
    with pytest.raises(QpipeError, match="2 runs begin so"):
        store.run("2")


def test_only_the_newest_run_of_a_recipe_can_be_unfinished(store: Store) -> None:
    assert store.unfinished_run("d1") is None
    first = store.new_run("a", **RECIPE)
    assert store.unfinished_run("d1") == first
    assert store.unfinished_run("d2") is None
    store.finish_run(first, "partial")
    assert store.unfinished_run("d1") == first
    store.finish_run(store.new_run("a", **RECIPE), "done")
    assert store.unfinished_run("d1") is None


def test_a_resumed_run_is_running_again(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.finish_run(run, "failed")
    assert store.run(run)["finished"] is not None
    store.resume_run(run)
    assert (store.run(run)["state"], store.run(run)["finished"]) == ("running", None)


def test_a_resumed_run_keeps_its_numbers_until_their_step_gives_others(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    for step, name in {"rpi4/latency": "latency_ms", "size@rpi4": "size_mb"}.items():
        store.record_measurements(run, HERE, [metric(name, rounds=[[1.0, 2.0]])], step=step)
    store.resume_run(run)
    kept = {row["metric"]: row for row in store.measurements(run)}
    assert [store.values(row["id"]) for row in kept.values()] == [[[1.0, 2.0]]] * 2
    store.replace_measurements(
        run, "rpi4/latency", [(HERE, [metric("first_ms", 7.0)], {"attempt": 2})]
    )
    found = [(row["metric"], row["step"], row["attempt"]) for row in store.measurements(run)]
    assert found == [("size_mb", "size@rpi4", None), ("first_ms", "rpi4/latency", 2)]
    assert store.values(kept["latency_ms"]["id"]) == []


def test_a_step_that_gives_no_numbers_after_all_keeps_those_of_before(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_measurements(run, HERE, [metric(rounds=[[1.0]])], step="rpi4/latency")
    rows: list[Any] = [(HERE, [metric("first_ms")], {}), (HERE, [metric("load_ms", math.nan)], {})]
    with pytest.raises(QpipeError):
        store.replace_measurements(run, "rpi4/latency", rows)
    (row,) = store.measurements(run)
    assert (row["metric"], store.values(row["id"])) == ("latency_ms", [[1.0]])


def test_what_belongs_to_no_step_is_forgotten_but_for_devices_that_were_not_asked(
    store: Store,
) -> None:
    run = store.new_run("a", **RECIPE)
    for step, device in {"here": "rpi4", "gone": "rpi4", "off/latency": "off"}.items():
        store.record_measurements(
            run, {**HERE, "device": device}, [metric(step, rounds=[[1.0]])], step=step
        )
    store.record_measurements(run, HERE, [metric("of an older qpipe")])
    store.forget_other_measurements(run, steps=["here"], unreachable_devices=["off"])
    assert [row["step"] for row in store.measurements(run)] == ["here", "off/latency"]
    assert ask(store, 'SELECT count(*) FROM "values"') == [(2,)]
    store.forget_measurements(run, ["off/latency", "never"])
    assert [row["step"] for row in store.measurements(run)] == ["here"]


def test_a_run_keeps_what_its_devices_were_then(store: Store) -> None:
    old, new = store.new_run("a", **RECIPE), store.new_run("a", **RECIPE)
    store.record_devices(old, {"rpi4": BOARD})
    newer = replace(BOARD, runtimes={"onnxruntime": "1.24.0"}, fingerprint="beef")
    store.record_devices(new, {"rpi4": BOARD, "other": BOARD})
    store.record_devices(new, {"rpi4": newer})
    store.save_device("rpi4", "ssh", newer)
    assert store.capabilities(old) == {"rpi4": BOARD}
    assert store.capabilities(new) == {"rpi4": newer, "other": BOARD}
    assert store.capabilities("none") == {}


def test_the_latest_run_can_be_asked_for_by_recipe(store: Store) -> None:
    assert store.latest_run() is None
    a, b = store.new_run("a", **RECIPE), store.new_run("b", **RECIPE)
    latest, of_a = store.latest_run(), store.latest_run("a")
    assert latest is not None
    assert of_a is not None
    assert (latest["id"], of_a["id"]) == (b, a)


def test_a_step_keeps_what_was_recorded_of_it_before(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_step(
        run,
        "quantize/net",
        kind="quantize",
        stage="symmetric",
        state="running",
        key_fields={"bits": 8},
    )
    store.record_step(run, "compile/net", state="running")
    store.record_step(run, "quantize/net", state="done", seconds=1.5)
    first, second = store.steps(run)
    assert (first["step"], first["stage"]) == ("quantize/net", "symmetric")
    assert (first["state"], first["seconds"]) == ("done", 1.5)
    assert first["key_fields"] == {"bits": 8}
    assert second["step"] == "compile/net"


def test_a_step_with_an_unknown_field_is_a_bug_and_not_a_message(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    with pytest.raises(sqlite3.OperationalError, match="colour"):
        store.record_step(run, "one", colour="red")


def test_measurements_come_back_with_their_facts_and_raw_values(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    measured = metric(low=4.0, high=5.0, n=6, rounds=((4.0, 4.5, 5.0), (4.25, 4.5)))
    facts = {
        "runtime": "onnxruntime",
        "is_float": False,
        "target": {"max_opset": 21},
        "fingerprint": "f00d",
    }
    store.record_measurements(run, {**HERE, "seed": "3"}, [measured, metric("p99_ms")], **facts)
    row, other = store.measurements(run)
    assert {key: row[key] for key in HERE} == HERE
    assert row["extra"] == {"seed": "3"}
    assert (row["metric"], row["value"], row["unit"], row["n"]) == ("latency_ms", 4.5, "ms", 6)
    assert (row["low"], row["high"]) == (4.0, 5.0)
    assert (row["runtime"], row["is_float"], row["target"], row["fingerprint"]) == (
        "onnxruntime", 0, {"max_opset": 21}, "f00d"
    )  # fmt: skip
    assert store.values(row["id"]) == [[4.0, 4.5, 5.0], [4.25, 4.5]]
    assert store.values(other["id"]) == []


def test_measuring_again_replaces_the_number_and_its_values(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_measurements(run, HERE, [metric(rounds=((1.0, 2.0, 3.0),))])
    store.record_measurements(run, HERE, [metric(value=9.0, rounds=((8.0,),))])
    (row,) = store.measurements(run)
    assert row["value"] == 9.0
    assert store.values(row["id"]) == [[8.0]]


def test_coordinates_of_a_sweep_keep_rows_apart(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    for seed in ("1", "2"):
        store.record_measurements(run, {**HERE, "seed": seed}, [metric()])
    assert [row["extra"] for row in store.measurements(run)] == [{"seed": "1"}, {"seed": "2"}]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused_and_nothing_is_written(
    store: Store, number: float
) -> None:
    run = store.new_run("a", **RECIPE)
    message = (
        "^net/int8-channel/ort/rpi4: top1 is not a number; a metric must give a finite number$"
    )
    with pytest.raises(QpipeError, match=message):
        store.record_measurements(run, HERE, [metric(), metric("top1", number)])
    with pytest.raises(QpipeError, match=message):
        store.record_measurements(run, HERE, [metric("top1", rounds=((number,),))])
    assert store.measurements(run) == []


def test_an_unknown_fact_is_refused(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    with pytest.raises(TypeError, match="not colour"):
        store.record_measurements(run, HERE, [metric()], colour="red")


def test_a_measurement_belongs_to_a_run(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.record_measurements("nowhere", HERE, [metric()])


def test_a_device_comes_back_as_it_was_checked(store: Store) -> None:
    assert store.device("rpi4") is None
    store.save_device("rpi4", "ssh", BOARD)
    row = store.device("rpi4")
    assert row is not None
    assert row["capabilities"] == BOARD
    assert (row["kind"], row["fingerprint"]) == ("ssh", "f00d")


def test_the_verdicts_of_a_run_are_replaced_as_a_whole(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    one = {
        **HERE,
        "on_front": True,
        "reason": "",
        "objectives": {"latency_ms": "min"},
        "margins": {},
    }
    store.record_verdicts(
        run, [one, {**one, "scheme": "float32", "on_front": False, "reason": "dominated by x"}]
    )
    assert [row["on_front"] for row in store.verdicts(run)] == [1, 0]
    store.record_verdicts(run, [one])
    (row,) = store.verdicts(run)
    assert row["objectives"] == {"latency_ms": "min"}
    assert row["extra"] == {}


def test_any_client_reads_the_pareto_view(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_measurements(run, HERE, [metric(), metric("size_mb", 3.5)], runtime="onnxruntime")
    store.record_verdicts(
        run, [{**HERE, "on_front": True, "reason": "", "objectives": {}, "margins": {}}]
    )
    rows = ask(
        store, "SELECT recipe, scheme, device, on_front, metric, value FROM pareto ORDER BY metric"
    )
    row = ("a", "int8-channel", "rpi4", 1)
    assert rows == [(*row, "latency_ms", 4.5), (*row, "size_mb", 3.5)]


def test_the_latest_view_has_each_row_of_a_recipe_once(store: Store) -> None:
    old, new = store.new_run("a", **RECIPE), store.new_run("a", **RECIPE)
    store.record_measurements(old, HERE, [metric(value=1.0), metric("size_mb", 2.0)])
    store.record_measurements(new, HERE, [metric(value=3.0)])
    assert ask(store, "SELECT metric, value FROM latest ORDER BY metric") == [
        ("latency_ms", 3.0),
        ("size_mb", 2.0),
    ]


def test_the_history_view_has_each_number_with_the_one_before(store: Store) -> None:
    runs = [store.new_run("a", **RECIPE) for _ in range(2)]
    smoke = store.new_run("a", **RECIPE, request={"smoke": True})
    runs.append(store.new_run("a", **RECIPE))
    for run, value in zip([*runs[:2], smoke, runs[2]], (1.0, 2.0, 9.0, 3.0), strict=True):
        store.record_measurements(run, HERE, [metric(value=value)])
    rows = ask(
        store,
        "SELECT run, value, value_before, run_before FROM history WHERE NOT is_smoke "
        "AND scheme = 'int8-channel' AND metric = 'latency_ms' ORDER BY started",
    )
    assert rows == [
        (runs[0], 1.0, None, None), (runs[1], 2.0, 1.0, runs[0]), (runs[2], 3.0, 2.0, runs[1])
    ]  # fmt: skip
    (marked,) = ask(store, "SELECT value, value_before FROM history WHERE is_smoke")
    assert marked == (9.0, None)


def test_devices_that_a_run_could_not_reach_are_those_of_its_last_attempt(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_unreachable(run, {"one": "one: no route to host", "two": "two: refused"})
    store.record_unreachable(run, {"two": "two: no answer"})
    assert store.unreachable(run) == {"two": "two: no answer"}


def test_what_was_written_is_there_after_opening_again(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    with Store(store.path) as again:
        assert again.run(run)["id"] == run
    assert ask(store, "PRAGMA journal_mode") == [("wal",)]


def test_two_files_merge_by_union(store: Store, tmp_path: Path) -> None:
    with Store(tmp_path / "other.db") as other:
        for each in (store, other):
            run = each.new_run("a", **RECIPE)
            each.record_measurements(run, HERE, [metric(rounds=((1.0,),))])
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("ATTACH ? AS other", (str(other.path),))
        for table in ("runs", "measurements", '"values"'):
            connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
            connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
        connection.commit()
    assert [len(store.measurements(row["id"])) for row in store.runs()] == [1, 1]


def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 200)
    with pytest.raises(
        QpipeError,
        match=r"notes.txt: not a database of qpipe: file is not a database; give another",
    ):
        Store(path)
    assert path.read_text() == "buy milk\n" * 200


def test_somebody_elses_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (distance REAL)")
    with pytest.raises(QpipeError, match="not a database of qpipe: table runs already exists"):
        Store(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QpipeError, match="unable to open database file"):
        Store(tmp_path)


def test_a_database_of_a_newer_qpipe_is_refused(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('qpipe', 'energy', '2031')"
        )
        connection.commit()
    with pytest.raises(
        QpipeError, match="made by a newer qpipe, which added energy; upgrade qpipe-edge"
    ):
        Store(store.path)


def test_threads_share_a_store(store: Store) -> None:
    run = store.new_run("a", **RECIPE)

    def record(thread: int) -> None:
        for step in range(10):
            store.record_step(run, f"{thread}/{step}", state="done")

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.steps(run)) == 40


OPEN_AND_WRITE = """
import sys
from pathlib import Path
from qpipe.storage.results import Store
from qpipe.types import Measurement
with Store(Path(sys.argv[1])) as store:
    run = store.new_run("a", recipe_path="", recipe_digest="", recipe_text="", versions={})
    print(run, flush=True)
    for i in range(int(sys.argv[2])):
        where = {"model": "net", "scheme": str(i), "build": "ort", "device": "local"}
        store.record_measurements(run, where, [Measurement("latency_ms", 1.0, "ms", rounds=[[1.0] * 50] * 4)])
        print(i, flush=True)
"""


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", OPEN_AND_WRITE, str(path), str(count)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_together_share_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "qpipe.db"
    writers = [writer(path, 5) for _ in range(3)]
    assert [process.communicate()[0].split()[1:] for process in writers] == [list("01234")] * 3
    with Store(path) as store:
        assert [len(store.measurements(row["id"])) for row in store.runs()] == [5, 5, 5]


def test_a_writer_killed_in_its_stride_leaves_whole_measurements(tmp_path: Path) -> None:
    path = tmp_path / "qpipe.db"
    process = writer(path, 100_000)
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    told = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Store(path) as store:
        rows = store.measurements(run)
        assert len(rows) >= len(told)
        assert all(store.values(row["id"]) == [[1.0] * 50] * 4 for row in rows)
        assert ask(store, "PRAGMA integrity_check") == [("ok",)]


def test_a_busy_database_is_waited_for(store: Store) -> None:
    blocker = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: (blocker.execute("COMMIT"), blocker.close()))
    timer.start()
    run = store.new_run("a", **RECIPE)
    timer.join()
    assert store.run(run)["id"] == run


def test_a_database_that_is_only_to_be_read_is_not_created(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "new" / "typo.db"
    with pytest.raises(
        QpipeError, match=r"typo.db: there is no such database; give that of your runs with --db$"
    ):
        Store(path, create=False)
    assert not path.parent.exists()
    with Store(store.path, create=False) as again:
        assert again.runs() == []


def test_steps_are_recorded_together_or_not_at_all(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_step(run, "two", seconds=1.5)
    store.record_steps(
        run, [{"step": "one", "state": "pending"}, {"step": "two", "state": "pending"}]
    )
    assert [(s["step"], s["state"], s["seconds"]) for s in store.steps(run)] == [
        ("two", "pending", 1.5), ("one", "pending", None)
    ]  # fmt: skip
    with pytest.raises(sqlite3.OperationalError, match="colour"):
        store.record_steps(
            run, [{"step": "three", "state": "pending"}, {"step": "four", "colour": "red"}]
        )
    assert len(store.steps(run)) == 2


def test_objectives_keep_the_order_of_the_recipe(store: Store) -> None:
    objectives = {"top1": "max", "latency_ms": "min", "accuracy": "max"}
    run = store.new_run("a", **RECIPE, objectives=objectives)
    assert list(store.run(run)["objectives"]) == list(objectives)
    margins = dict.fromkeys(objectives, 0.01)
    verdict = {**HERE, "on_front": True, "reason": "", "objectives": objectives, "margins": margins}
    store.record_verdicts(run, [verdict])
    (row,) = store.verdicts(run)
    assert (list(row["objectives"]), list(row["margins"])) == (list(objectives), list(objectives))


def test_a_run_that_goes_on_forgets_the_verdicts_of_before(store: Store) -> None:
    run = store.new_run("a", **RECIPE, objectives={"size_mb": "min"}, margins={"size_mb": 0.1})
    store.record_verdicts(
        run, [{**HERE, "on_front": True, "reason": "", "objectives": {}, "margins": {}}]
    )
    store.resume_run(run)
    assert (store.verdicts(run), store.run(run)["objectives"]) == ([], {"size_mb": "min"})
    assert store.run(run)["margins"] == {"size_mb": 0.1}
    store.resume_run(run, objectives={"latency_ms": "min"}, margins={})
    assert (store.run(run)["objectives"], store.run(run)["margins"]) == ({"latency_ms": "min"}, {})


def test_json_in_the_database_is_plain_and_sorted(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_step(run, "one", key_fields={"b": 1, "a": [2]})
    ((text,),) = ask(store, "SELECT key_fields FROM steps")
    assert text == json.dumps({"a": [2], "b": 1})


def test_a_run_has_tags_and_is_found_by_them(store: Store) -> None:
    first, second = store.new_run("a", **RECIPE), store.new_run("b", **RECIPE)
    store.tag(first, ["nightly", "rpi"])
    store.tag(first, ["nightly"])
    store.tag(second, ["nightly"])
    assert store.tags() == {first: ["nightly", "rpi"], second: ["nightly"]}
    assert store.run("nightly")["id"] == second
    assert store.run("rpi")["id"] == first
    assert [row["id"] for row in store.runs(tag="nightly")] == [second, first]
    assert [row["id"] for row in store.runs("a", tag="nightly")] == [first]
    store.untag(second, ["nightly", "never"])
    assert store.tags() == {first: ["nightly", "rpi"]}
    with pytest.raises(
        QpipeError, match=rf"there is {second}, {first}, and the tags nightly, rpi$"
    ):
        store.run("weekly")


def test_a_tag_that_is_also_the_beginning_of_another_run_is_an_error(store: Store) -> None:
    first, second = store.new_run("a", **RECIPE), store.new_run("b", **RECIPE)
    store.tag(first, [second, first[:15], "2"])
    assert store.run(second)["id"] == second, "a whole id means that run"
    with pytest.raises(
        QpipeError,
        match=f"run '2': {second}, {first} begins so, and {first} has that tag; give more",
    ):
        store.run("2")
    other = store.new_run("c", **RECIPE)
    store.tag(first, [other[:-2]])
    with pytest.raises(
        QpipeError, match=f"{other} begins so, and {first} has that tag; give more of the id"
    ):
        store.run(other[:-2])


def test_a_run_that_is_not_there_gets_no_tag(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.tag("nowhere", ["nightly"])


def test_what_belongs_to_a_run_goes_with_it(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_attempt(run, "one", 1, state="done")
    store.record_training(run, "one", [(0, None, 9.5)])
    timed = metric(rounds=[[1.0], [2.0]], conditions=[{"invalid": None}, {"invalid": "throttled"}])
    store.record_measurements(run, HERE, [timed])
    store.record_devices(run, {"rpi4": BOARD})
    verdict = {**HERE, "on_front": True, "reason": "", "objectives": {}, "margins": {}}
    store.record_verdicts(run, [verdict])  # type: ignore[list-item]
    store.tag(run, ["nightly"])
    tables = (
        "runs", "steps", "attempts", "training_curves", "measurements", '"values"', "rounds", "verdicts", "tags", "run_devices"
    )  # fmt: skip
    assert all(ask(store, f"SELECT count(*) FROM {table}") != [(0,)] for table in tables)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM runs")
        connection.commit()
    assert all(ask(store, f"SELECT count(*) FROM {table}") == [(0,)] for table in tables)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE runs SET state = 'lost'",
        "UPDATE runs SET recipe = NULL",
        "UPDATE runs SET versions = '[]'",
        "UPDATE steps SET state = 'lost'",
        "UPDATE measurements SET value = 'fast'",
        "UPDATE measurements SET better = 'most'",
        "UPDATE measurements SET raw = 'none'",
        "UPDATE measurements SET is_float = 2",
        "UPDATE measurements SET low = 2.0, high = 1.0",
        "UPDATE measurements SET run = 'nowhere'",
        "INSERT INTO attempts (run, step, attempt, state) SELECT id, 'no step', 1, 'done' FROM runs",
    ],
)
def test_no_client_writes_what_qpipe_would_not(store: Store, sql: str) -> None:
    run = store.new_run("a", **RECIPE)
    store.record_step(run, "one", state="done")
    store.record_measurements(run, HERE, [metric()])
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(sql)


def test_an_interval_that_is_upside_down_is_refused(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    message = (
        "^net/int8-channel/ort/rpi4: the interval of top1 is 0.9 to 0.8; low must not exceed high$"
    )
    with pytest.raises(QpipeError, match=message):
        store.record_measurements(run, HERE, [metric("top1", 0.85, low=0.9, high=0.8)])


def test_numbers_of_numpy_are_stored_as_numbers(store: Store) -> None:
    run = store.new_run("a", **RECIPE)
    numbers = {"low": np.float32(4.0), "high": np.float64(5.0), "n": np.int64(3)}
    store.record_measurements(run, HERE, [metric(value=np.float32(4.5), **numbers)])  # type: ignore[arg-type]
    (row,) = store.measurements(run)
    assert (row["value"], row["low"], row["high"], row["n"]) == (4.5, 4.0, 5.0, 3)


def test_a_sqlite_without_strict_tables_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OLDEST_SQLITE", (99, 1, 0))
    with pytest.raises(
        QpipeError, match=r"is too old for the database; use a Python with SQLite 99\.1 or newer$"
    ):
        Store(tmp_path / "qpipe.db")
