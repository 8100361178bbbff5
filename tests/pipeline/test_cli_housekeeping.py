"""cache, db merge, tags of runs, and what a step measured: what the commands print, and what is there after."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from scratch_lab import LabShell

from qpipe.storage.cache import MANIFEST, Cache
from qpipe.storage.results import Store
from qpipe.types import Measurement
from waiting import LONGEST_S, ended_at_last, wait_until

DB, CACHE = Path(".qpipe/results.db"), Path(".qpipe/cache")


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def fill(kind: str, key: str, size: int, days: float = 0) -> None:
    """A result of that many bytes, unused for so long."""
    cache = Cache(CACHE)
    with cache.put(kind, key) as folder:
        (folder / "file").write_bytes(bytes(size))
    then = time.time() - days * 24 * 3600
    os.utime(cache.folder(kind, key) / MANIFEST, (then, then))


def keys() -> list[str]:
    return [entry.key for entry in Cache(CACHE).entries()]


@pytest.fixture
def filled(qpipe: LabShell) -> LabShell:
    """5 MB of samples unused for 9 days, builds of 2 and 1 MB for 5 days and none."""
    fill("samples", "s", 5_000_000, 9)
    fill("compile", "old", 2_000_000, 5)
    fill("compile", "new", 1_000_000)
    return qpipe


def test_the_cache_is_shown_by_kind_the_largest_first(filled: LabShell) -> None:
    lines = [re.split(r"\s{2,}", line.strip()) for line in filled("cache")[0].splitlines()]
    assert lines == [
        ["kind", "entries", "MB", "oldest use"], ["samples", "1", "5.0", "9 days ago"],
        ["compile", "2", "3.0", "5 days ago"], ["all", "3", "8.0"],
    ]  # fmt: skip
    rows = filled.json("cache")
    assert [(row["kind"], row["entries"], round(row["mb"])) for row in rows] == [
        ("samples", 1, 5),
        ("compile", 2, 3),
    ]


def test_an_empty_cache_is_said_to_be_so_and_not_made(qpipe: LabShell) -> None:
    assert qpipe("cache")[0] == ".qpipe/cache: the cache is empty\n"
    assert qpipe("cache clean")[0] == ".qpipe/cache: 0.0 MB freed, 0 results\n"
    assert not Path(".qpipe").exists()


@pytest.mark.parametrize(
    ("options", "left", "freed"),
    [
        ("", [], "8.0 MB freed, 3 results"),
        ("--kind compile", ["s"], "3.0 MB freed, 2 results"),
        ("--older-than 7", ["old", "new"], "5.0 MB freed, 1 result"),
        ("--keep-mb 3.5", ["old", "new"], "5.0 MB freed, 1 result"),
        ("--kind compile --keep-mb 1.5", ["s", "new"], "2.0 MB freed, 1 result"),
        ("--dry-run", ["s", "old", "new"], "8.0 MB would be freed, 3 results"),
    ],
)
def test_cleaning_says_what_it_freed(
    options: str, left: list[str], freed: str, filled: LabShell
) -> None:
    assert filled(f"cache clean {options}")[0] == f".qpipe/cache: {freed}\n"
    assert keys() == left


def test_an_option_before_the_word_clean_counts_too(filled: LabShell) -> None:
    shutil.copytree(CACHE, "other")
    told = json.loads(filled("cache --cache other --json clean")[0])
    assert (told["freed_bytes"] // 1_000_000, told["in_use"], told["dry_run"]) == (8, 0, False)
    assert {row["kind"] for row in told["removed"]} == {"samples", "compile"}
    assert len(keys()) == 3


def test_an_unknown_kind_is_told(filled: LabShell) -> None:
    _, err = filled("cache clean --kind compiled", 2)
    assert (
        err
        == "qpipe: --kind compiled: .qpipe/cache holds no results of this kind; did you mean 'compile'?\n"
    )


def test_what_a_running_run_needs_survives_cleaning(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "recipe.yaml", '{snap: {bits: "${bits}"}}', "{snap: {hold: hold, mark: snapping}}"
    )
    qpipe.lab.write("hold", "")
    fill("compile", "of another recipe", 1_000_000)
    with ended_at_last(qpipe.lab.start("run", "recipe.yaml")) as process:
        assert wait_until(lambda: Path("snapping").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        out, _ = qpipe("cache clean")
        assert ".qpipe/cache: 1.0 MB freed, 1 result\n" in out
        assert "are kept: a run is using them" in out
        Path("hold").unlink()
        output, errors = process.communicate(timeout=LONGEST_S)
        assert process.returncode == 0, f"{output}\n{errors}"
    assert keys()
    qpipe("cache clean")
    assert keys() == []


# ---- databases


def test_databases_are_merged(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml --only float32")
    qpipe("run recipe.yaml --only float32 --db other/theirs.db")
    shutil.copy("other/theirs.db", "copy.db")
    told = qpipe.json("db merge other/theirs.db copy.db")
    assert [(file["file"], file["added"], file["same"]) for file in told["files"]] == [
        ("other/theirs.db", 1, 0), ("copy.db", 0, 1)
    ]  # fmt: skip
    assert told["files"][0]["measurements"] > 0
    assert len(qpipe.json("runs")) == 2
    out, _ = qpipe("db merge copy.db --db new.db")
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert lines[0] == ["file", "runs added", "replaced", "kept", "same", "measurements", "devices"]
    assert lines[1][:5] == ["copy.db", "1", "0", "0", "0"]
    assert lines[2] == ["into new.db"]


def test_a_run_that_differs_is_told_in_a_line(qpipe: LabShell) -> None:
    with Store(DB) as store:
        run = store.new_run("a", recipe_path="", recipe_digest="", recipe_text="", versions={})
    shutil.copy(DB, "copy.db")
    with Store(DB) as store:
        store.finish_run(run, "done")
    out, _ = qpipe("db merge copy.db")
    assert out.startswith(f"run {run}: kept as it is here, not as in copy.db: there running, ")


@pytest.mark.parametrize("name", ["recipe.yaml", "nothing.db"])
def test_what_is_no_database_is_one_line(name: str, qpipe: LabShell) -> None:
    out, err = qpipe(f"db merge {name}", 2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"qpipe: {name}: ")
    assert not DB.exists()


# ---- runs and steps


@pytest.fixture
def ran(qpipe: LabShell) -> tuple[LabShell, list[str]]:
    """Two runs with a number, the newest first."""
    place = {"model": "net", "scheme": "int8", "build": "ort", "device": "one"}
    with Store(DB) as store:
        ids = [
            store.new_run(
                "a",
                recipe_path="",
                recipe_digest="",
                recipe_text="",
                versions={},
                objectives={"size_mb": "min"},
            )
            for _ in range(2)
        ]
        for run in ids:
            store.record_measurements(
                run, place, [Measurement("size_mb", 4.0, "MB")], step="net/int8/ort@one/size"
            )
            store.record_step(run, "net/int8/ort@one/size", state="done", key_fields={})
            store.record_step(run, "net/import", state="done", key_fields={})
    return qpipe, ids[::-1]


def test_a_run_is_tagged_found_by_its_tag_and_untagged(ran: tuple[LabShell, list[str]]) -> None:
    qpipe, (newest, oldest) = ran
    assert (
        qpipe(f"runs tag {oldest} nightly before-the-fix")[0]
        == f"run {oldest}: before-the-fix, nightly\n"
    )
    assert qpipe.json(f"runs tag {newest} nightly") == {"run": newest, "tags": ["nightly"]}
    assert [run["tags"] for run in qpipe.json("runs")] == [
        ["nightly"],
        ["before-the-fix", "nightly"],
    ]
    assert [run["id"] for run in qpipe.json("runs --tag before-the-fix")] == [oldest]
    assert "before-the-fix, nightly" in qpipe("runs")[0]
    assert qpipe.json("show --run nightly")["id"] == newest
    assert qpipe.json("show --run before-the-fix")["id"] == oldest
    assert {row["run"] for row in qpipe.json("pareto --run before-the-fix")["rows"]} == {oldest}
    assert qpipe("runs tag nightly nightly --remove")[0] == f"run {newest}: no tags\n"
    assert qpipe.json("show --run nightly")["id"] == oldest
    _, err = qpipe("runs --tag nightli", 2)
    assert err == "qpipe: --tag nightli: no run has this tag; did you mean 'nightly'?\n"
    _, err = qpipe(f"runs tag {newest} ../x", 2)
    assert err == "qpipe: tag '../x': use letters, digits, '.', '_' and '-'\n"


def test_an_option_before_the_word_tag_counts_too(ran: tuple[LabShell, list[str]]) -> None:
    qpipe, (newest, _) = ran
    shutil.copy(DB, "other.db")
    qpipe(f"runs --db other.db tag {newest} mine")
    assert [run["tags"] for run in qpipe.json("runs --db other.db")] == [["mine"], []]
    assert [run["tags"] for run in qpipe.json("runs")] == [[], []]


def test_a_step_is_shown_with_the_numbers_it_measured(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    told = qpipe.json("show one/pace")["measurements"]
    assert {(number["of"], number["metric"], number["value"]) for number in told} == {
        (f"tiny/{scheme}/packed", metric, value)
        for scheme in ("float32", "snapped") for metric, value in (("latency_ms", 5.0), ("absent", 0.0))
    }  # fmt: skip
    (weight,) = qpipe.json("show tiny/snapped/packed@one/weight")["measurements"]
    assert (weight["of"], weight["unit"]) == ("tiny/snapped/packed", "B")


def test_the_numbers_of_a_step_are_a_table(ran: tuple[LabShell, list[str]]) -> None:
    qpipe, _ = ran
    out, _ = qpipe("show net/int8/ort@one/size")
    table = [
        re.split(r"\s{2,}", line.strip()) for line in out.partition("measured:\n")[2].splitlines()
    ]
    assert table == [
        ["of", "metric", "value", "95 %", "unit", "n"],
        ["net/int8/ort", "size_mb", "4", "MB", "1"],
    ]
    assert "measured:" not in qpipe("show net/import")[0]


def test_an_unknown_step_is_told_only_what_may_be_meant(ran: tuple[LabShell, list[str]]) -> None:
    qpipe, (newest, _) = ran
    _, err = qpipe("show net/int8/ort@one/sise", 2)
    assert (
        err
        == f"qpipe: run {newest}: no step 'net/int8/ort@one/sise'; did you mean 'net/int8/ort@one/size'?\n"
    )
    _, err = qpipe("show latency", 2)
    assert err == f"qpipe: run {newest}: no step 'latency'; see them with: qpipe show\n"


# ---- limits


def test_what_is_shipped_keeps_the_limits(ran: tuple[LabShell, list[str]]) -> None:
    qpipe, _ = ran
    assert (
        "net on one: ship int8, the best with size_mb <= 6: "
        in qpipe("pareto --knee --max size_mb=6")[0]
    )
    assert (
        "net on one: ship int8, the best with size_mb >= 3.5: "
        in qpipe("pareto --knee --min size_mb=350%")[0]
    )
    out, _ = qpipe("pareto --max size_mb=3.5")
    assert "net on one: no scheme has size_mb <= 3.5; the best is size 4.00 MB (int8)" in out
    assert [row["within_limits"] for row in qpipe.json("pareto --max size_mb=3.5")["rows"]] == [
        False
    ]
    assert [row["within_limits"] for row in qpipe.json("pareto --max size_mb=6")["rows"]] == [True]
    assert "within_limits" not in qpipe.json("pareto")["rows"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max latency_ms", "--max latency_ms: no number; write --max METRIC=VALUE"),
        ("--min weight=much", "--min weight=much: no number; write --min METRIC=VALUE"),
        ("--min weight=nan", "--min weight=nan: no number; write --min METRIC=VALUE"),
        ("--max size_md=5", "--max size_md: it is not measured; did you mean 'size_mb'?"),
        ("--max weight=5 --min weight=4", "--max weight=5: 'weight' has a limit already; give one"),
    ],
)
def test_a_limit_that_says_nothing_is_told(
    options: str, message: str, ran: tuple[LabShell, list[str]]
) -> None:
    qpipe, _ = ran
    out, err = qpipe(f"pareto {options}", 2)
    assert (out, err) == ("", f"qpipe: {message}\n")
