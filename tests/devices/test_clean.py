"""`devices clean`: by age of last use and by size, and what is shared stays while somebody has it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import qpipe
from small_build import nothing

DAY_S = 86400.0
SIZE = 1_000_000


@pytest.fixture
def stored(device: qpipe.Device, tmp_path: Path) -> dict[str, Path]:
    """Three folders on the device of 2 MB each, of which one is the same file; unused for 0, 1, 2 days and an hour."""
    found = {}
    for days, name in enumerate(("today", "yesterday", "before")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "shared").write_bytes(b"x" * SIZE)
        (folder / "own").write_bytes(name[:1].encode() * SIZE)
        found[name] = Path(device.store(folder, nothing).path)
        used = time.time() - days * DAY_S - 3600
        os.utime(found[name], (used, used))
    return found


def there(stored: dict[str, Path]) -> list[str]:
    return [name for name, path in stored.items() if path.exists()]


def test_without_options_all_goes(device, stored):
    assert device.clean() == 4 * SIZE
    assert there(stored) == []
    assert not list((Path(device.folder) / "blobs").iterdir())


def test_by_age_of_its_last_use(device, stored):
    assert device.clean(older_than_s=1.5 * DAY_S) == SIZE
    assert there(stored) == ["today", "yesterday"]
    assert len(list((Path(device.folder) / "blobs").iterdir())) == 3


def test_the_longest_unused_go_until_so_much_is_left(device, stored):
    assert device.clean(keep_bytes=2.5e6) == 2 * SIZE
    assert there(stored) == ["today"]
    assert device.clean(keep_bytes=2.5e6) == 0


def test_with_both_only_what_fits_both(device, stored):
    assert device.clean(keep_bytes=0, older_than_s=1.5 * DAY_S) == SIZE
    assert there(stored) == ["today", "yesterday"]


def test_a_dry_run_removes_nothing(device, stored):
    assert device.clean(dry_run=True) == 4 * SIZE
    assert there(stored) == ["today", "yesterday", "before"]


def test_what_is_used_again_is_young_again(device, stored, tmp_path):
    device.store(tmp_path / "before", nothing)
    device.clean(older_than_s=0.5 * DAY_S)
    assert there(stored) == ["today", "before"]


def test_what_stays_is_whole_and_what_went_is_sent_again(device, stored, tmp_path):
    device.clean(keep_bytes=2.5e6)
    assert device.store(tmp_path / "today", nothing).sent == 0
    assert device.store(tmp_path / "before", nothing).sent == SIZE
    assert (stored["before"] / "shared").read_bytes() == b"x" * SIZE


def test_a_file_that_lies_in_no_folder_goes_too(device, stored):
    orphan = Path(device.folder) / "blobs" / ("0" * 64)
    orphan.write_bytes(b"x" * 10)
    assert device.clean(keep_bytes=10e6) == 0
    assert device.clean(older_than_s=1.5 * DAY_S) == SIZE
    assert orphan.exists()
    assert device.clean() == 3 * SIZE + 10
    assert not orphan.exists()


def test_the_runtime_that_setup_brought_stays_unless_it_is_meant(device):
    python = Path(device.folder) / "python"
    for name in ("inuse", "earlier"):
        (python / name).mkdir(parents=True)
        (python / name / "file").write_bytes(b"x" * 100)
    (python / "current").write_text("inuse", encoding="utf-8")
    assert device.clean() == 100
    assert [path.name for path in python.iterdir() if path.is_dir()] == ["inuse"]
    assert device.clean(runtime=True) == 100
    assert list(python.iterdir()) == []


def test_agents_of_other_versions_go_and_the_one_that_runs_stays(device):
    device.capabilities()
    folder = Path(device.folder) / "agent"
    (own,) = folder.iterdir()
    for name, days in (("0" * 64 + ".pyz", 3), ("1" * 64 + ".pyz", 1), ("2" * 64 + ".pyz.77", 3)):
        (folder / name).write_bytes(b"x" * 100)
        used = time.time() - days * DAY_S
        os.utime(folder / name, (used, used))
    (folder / ("3" * 64 + ".pyz.78")).write_bytes(b"x" * 100)  # it may be arriving at this moment
    assert device.clean(older_than_s=2 * DAY_S) == 200
    assert device.clean() == 100
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [own.name, "3" * 64 + ".pyz.78"]
    )


def test_an_agent_that_is_used_again_is_young_again(device):
    device.capabilities()
    (own,) = (Path(device.folder) / "agent").iterdir()
    device.close()
    os.utime(own, (time.time() - 3 * DAY_S,) * 2)
    device.capabilities()
    assert time.time() - own.stat().st_mtime < DAY_S


def test_nothing_is_cleaned_while_somebody_else_is_at_the_device(open_device, stored):
    with pytest.raises(qpipe.BusyError, match=r"^board: busy: held by "):
        open_device().clean()
    assert len(there(stored)) == 3
