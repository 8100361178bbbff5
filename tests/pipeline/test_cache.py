"""Results by key: whole or absent, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import QpipeError
from qpipe.storage.cache import MANIFEST, Cache
from waiting import ended_at_last


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, text: str = "value", key: str = "k1") -> None:
    with cache.put("import", key) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text, encoding="utf-8")
        (folder / "b.bin").write_bytes(bytes(100))


def files(cache: Cache) -> list[str]:
    return sorted(
        str(file.relative_to(cache.root)) for file in cache.root.rglob("*") if file.is_file()
    )


def test_what_was_put_is_there(cache: Cache) -> None:
    assert cache.get("import", "k1") is None
    put(cache)
    folder = cache.get("import", "k1")
    assert folder is not None
    assert (folder / "deep" / "a.txt").read_text(encoding="utf-8") == "value"
    assert cache.has("import", "k1")
    assert not cache.has("transform", "k1")


def cut(folder: Path) -> None:
    os.truncate(folder / "value" / "b.bin", 99)


def flip(folder: Path) -> None:
    (folder / "value" / "b.bin").write_bytes(bytes(99) + b"\x01")


def lose(folder: Path) -> None:
    (folder / "value" / "deep" / "a.txt").unlink()


def extra(folder: Path) -> None:
    (folder / "value" / "more.txt").touch()


def empty(folder: Path) -> None:
    (folder / MANIFEST).write_text("", encoding="utf-8")


def other(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]", encoding="utf-8")


def vanish(folder: Path) -> None:
    shutil.rmtree(folder / "value")


@pytest.mark.parametrize("damage", [cut, flip, lose, extra, empty, other, vanish])
def test_a_damaged_result_is_absent_and_removed(
    damage: Callable[[Path], None], cache: Cache
) -> None:
    put(cache)
    damage(cache.folder("import", "k1"))
    assert cache.get("import", "k1") is None
    assert not cache.folder("import", "k1").exists()
    put(cache, "again")
    assert cache.get("import", "k1") is not None


def test_nothing_stays_of_a_result_that_failed(cache: Cache) -> None:
    def fail() -> None:
        with cache.put("import", "k1") as folder:
            (folder / "half").write_bytes(bytes(10))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not cache.has("import", "k1")
    assert files(cache) == []
    assert list((cache.root / "aside").iterdir()) == []


def test_of_two_writers_of_one_key_the_first_stays(cache: Cache) -> None:
    with cache.put("import", "k1") as slow:
        (slow / "a").write_text("slow", encoding="utf-8")
        with cache.put("import", "k1") as fast:
            (fast / "a").write_text("fast", encoding="utf-8")
    folder = cache.get("import", "k1")
    assert folder is not None
    assert (folder / "a").read_text(encoding="utf-8") == "fast"
    assert list((cache.root / "aside").iterdir()) == []


def test_what_was_half_removed_is_in_nobodys_way(cache: Cache) -> None:
    put(cache)
    (cache.folder("import", "k1") / MANIFEST).unlink()
    assert cache.get("import", "k1") is None
    put(cache, "again")
    folder = cache.get("import", "k1")
    assert folder is not None
    assert (folder / "deep" / "a.txt").read_text(encoding="utf-8") == "again"


def test_a_writer_that_is_killed_leaves_no_result(cache: Cache) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom qpipe.storage.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).put('import', 'k1') as folder:\n"
        "    (folder / 'a').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, cache.root], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert cache.get("import", "k1") is None
    put(cache)
    assert cache.get("import", "k1") is not None


def test_many_processes_may_write_one_key_at_once(cache: Cache) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom qpipe.storage.cache import Cache\ncache = Cache(Path(sys.argv[1]))\n"
        "for i in range(40):\n"
        "    with cache.put('import', f'k{i}') as folder:\n        (folder / 'a').write_text(sys.argv[2])\n"
        "    assert cache.get('import', f'k{i}'), i\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, cache.root, str(i)]) for i in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(list((cache.root / "import").iterdir())) == 40


def test_what_a_killed_process_left_unfinished_a_day_ago_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, young = tmp_path / "aside" / "old", tmp_path / "aside" / "young"
    for entry in (old, young):
        (entry / "value").mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    with cache.put("import", "0" * 64) as value:
        (value / "file").write_text("x", encoding="utf-8")
    assert not old.exists()
    assert young.exists()


def age(cache: Cache, key: str, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(cache.folder("import", key) / MANIFEST, (then, then))


@pytest.fixture
def aged(cache: Cache) -> Cache:
    """Three results of about 100 bytes each and a manifest, unused for 1, 2 and 3 days."""
    for days in (1, 3, 2):
        put(cache, key=f"d{days}")
        age(cache, f"d{days}", days)
    return cache


def keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def test_entries_are_told_with_their_bytes_the_longest_unused_first(aged: Cache) -> None:
    with aged.put("transform", "t") as folder:
        (folder / "a").write_bytes(bytes(7))
    found = aged.entries()
    assert [(entry.kind, entry.key) for entry in found] == [
        ("import", "d3"), ("import", "d2"), ("import", "d1"), ("transform", "t"),
    ]  # fmt: skip
    for entry in found:
        folder = aged.folder(entry.kind, entry.key)
        assert entry.size == sum(
            file.stat().st_size for file in folder.rglob("*") if file.is_file()
        )
    assert found[0].last_used == pytest.approx(time.time() - 3 * 24 * 3600, abs=60)


def test_a_cache_that_is_not_there_is_empty_and_stays_away(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "none")
    assert (cache.entries(), cache.clean()) == ([], ([], []))
    assert not cache.root.exists()


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({}, []),
        ({"kind": "transform"}, ["d3", "d2", "d1"]),
        ({"kind": "import"}, []),
        ({"older_than_s": 1.5 * 24 * 3600}, ["d1"]),
        ({"keep_bytes": 2.5}, ["d2", "d1"]),
        ({"keep_bytes": 0}, []),
        ({"keep_bytes": 99}, ["d3", "d2", "d1"]),
        ({"older_than_s": 2.5 * 24 * 3600, "keep_bytes": 0}, ["d2", "d1"]),
        ({"dry_run": True}, ["d3", "d2", "d1"]),
    ],
)
def test_cleaning_removes_what_was_asked_for(
    wanted: dict[str, Any], left: list[str], aged: Cache
) -> None:
    before = aged.entries()
    if "keep_bytes" in wanted:
        wanted["keep_bytes"] *= before[0].size
    gone, in_use = aged.clean(**wanted)
    assert keys(aged) == left
    assert in_use == []
    if not wanted.get("dry_run"):
        assert gone == [entry for entry in before if entry.key not in left]
    assert [file for file in files(aged) if file.startswith("aside")] == []


def test_a_folder_that_is_no_cache_is_left_as_it_is(tmp_path: Path) -> None:
    letters = tmp_path / "home/documents/letters"
    letters.mkdir(parents=True)
    (letters / "to_mother.txt").write_text("dear", encoding="utf-8")
    cache = Cache(tmp_path / "home")
    assert (cache.entries(), cache.clean()) == ([], ([], []))
    assert (letters / "to_mother.txt").exists()


def test_what_a_killed_cleaner_left_of_a_result_is_removed(cache: Cache) -> None:
    put(cache)
    (cache.folder("import", "k1") / MANIFEST).unlink()
    assert [entry.key for entry in cache.clean()[0]] == ["k1"]
    assert not cache.folder("import", "k1").exists()


def test_what_a_run_counts_on_is_never_removed(aged: Cache) -> None:
    with aged.protect([("import", "d3"), ("import", "to come")]):
        put(aged, key="to come")
        gone, in_use = aged.clean()
        assert {entry.key for entry in gone} == {"d1", "d2"}
        assert {entry.key for entry in in_use} == {"d3", "to come"}
        assert aged.get("import", "d3") is not None
    gone, in_use = aged.clean()
    assert {entry.key for entry in gone} == {"d3", "to come"}
    assert in_use == []


def test_to_be_counted_on_is_a_use(aged: Cache) -> None:
    with aged.protect([("import", "d3")]):
        pass
    assert keys(aged) == ["d2", "d1", "d3"]


KEEPER = """
import sys, time
from pathlib import Path
from qpipe.storage.cache import Cache
with Cache(Path(sys.argv[1])).protect([("import", "d3")]):
    print("kept", flush=True)
    time.sleep(600)
"""


def test_another_process_keeps_its_results_until_it_is_killed(aged: Cache) -> None:
    command = [sys.executable, "-c", KEEPER, aged.root]
    with ended_at_last(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "kept\n"
        aged.clean()
        assert keys(aged) == ["d3"]
    aged.clean()
    assert keys(aged) == []
    assert files(aged) == [".lock"]


def test_runs_and_cleaners_at_once_never_meet(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom qpipe.storage.cache import Cache\ncache = Cache(Path(sys.argv[1]))\n"
        "for i in range(30):\n"
        "    with cache.protect([('import', 'k')]):\n"
        "        if cache.get('import', 'k') is None:\n"
        "            with cache.put('import', 'k') as folder:\n                (folder / 'a').write_text('x')\n"
        "        for j in range(20):\n"
        "            assert (cache.folder('import', 'k') / 'value' / 'a').read_text() == 'x'\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "cache"]) for _ in range(2)]
    cache = Cache(tmp_path / "cache")
    while any(run.poll() is None for run in runs):
        cache.clean()
    assert [run.returncode for run in runs] == [0, 0]


# ---- what others put there, and what processes leave


HOLD = (
    "import os, sys, time\nfrom pathlib import Path\nfrom qpipe.storage.cache import Cache\n"
    "cache = Cache(Path(sys.argv[1]))\n"
    "with cache.protect([('import', 'k')]), cache.put('import', 'k') as folder:\n"
    "    (folder / 'a').write_text('half')\n    print('ready', flush=True)\n    sys.stdin.read()\n"
)


def start_holding(cache: Cache) -> subprocess.Popen[str]:
    """Another process that protects and writes a result until its standard input ends."""
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD, cache.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_what_a_living_process_writes_is_never_swept(cache: Cache) -> None:
    """However old its folder looks: the step takes days, or the clock was set."""
    writer = start_holding(cache)
    (folder,) = (cache.root / "aside").iterdir()
    os.utime(folder, (0, 0))
    put(cache, key="other")
    with cache.protect([]):
        assert folder.is_dir()
    writer.communicate(timeout=500)
    assert cache.get("import", "k") is not None


def test_what_a_killed_process_left_is_gone_when_the_next_run_begins(cache: Cache) -> None:
    writer = start_holding(cache)
    with writer:
        writer.kill()
    assert len(list((cache.root / "aside").iterdir())) == 1
    assert len(list((cache.root / ".users").iterdir())) == 1
    with cache.protect([]):
        assert list((cache.root / "aside").iterdir()) == []
        assert len(list((cache.root / ".users").iterdir())) == 1, "its own"


def test_a_link_in_place_of_the_lock_harms_no_file(cache: Cache, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    put(cache)
    lock = cache.root / ".lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(precious)
    with pytest.raises(QpipeError) as error:
        cache.clean()
    assert str(error.value) == (
        f"{lock} cannot be opened: too many levels of symbolic links; "
        "remove it, or give another folder with --cache"
    )
    assert precious.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_is_given_as_the_cache_keeps_its_mode(tmp_path: Path) -> None:
    """It may be a home, or a project that others read."""
    folder = tmp_path / "project"
    folder.mkdir(mode=0o755)
    put(Cache(folder))
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_file_system_without_locks_is_no_endless_loop(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("qpipe.storage.folder_lock.fcntl.flock", refuse)
    put(cache)
    assert cache.get("import", "k1") is not None
    assert list((cache.root / "aside").iterdir()) == []


def test_a_cache_is_its_users_alone(cache: Cache) -> None:
    put(cache)
    assert cache.root.stat().st_mode & 0o777 == 0o700
    cache.root.chmod(0o775)
    with pytest.raises(QpipeError) as error:
        Cache(cache.root)
    assert str(error.value) == (
        f"{cache.root}: others may write into the cache; "
        "give a folder of your own with --cache, or remove this one"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a folder to another user")
def test_the_cache_of_another_user_is_refused(cache: Cache) -> None:
    put(cache)
    os.chown(cache.root, 12345, 12345)
    with pytest.raises(QpipeError, match="belongs to another user; give a folder of your own"):
        Cache(cache.root)
