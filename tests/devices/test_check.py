"""`devices check`: line by line what is ready, and what to do about the rest."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bare_board import by_what

import qpipe
from qpipe_devices import local, ssh
from qpipe_devices.agent.mounts import mount_of


@pytest.fixture
def bare(bare_python: Path, tmp_path: Path) -> Iterator[qpipe.Device]:
    device = local("board", python=str(bare_python), folder=tmp_path / "board")
    yield device
    device.close()


def test_a_ready_device_has_only_good_lines(device):
    found = by_what(device.check())
    found.pop("governor", None)  # this machine's, where it tells
    assert {each.state for each in found.values()} == {"ok"}
    assert list(found) == ["connection", "python", "numpy", "runtime", "folder", "space", "clock"]
    assert found["numpy"].said == np.__version__
    assert f"onnxruntime {onnxruntime.__version__}" in found["runtime"].said


def test_what_is_missing_hides_nothing_else(bare):
    found = by_what(bare.check())
    missing = "ModuleNotFoundError: No module named"
    fix = "run: qpipe devices setup board"
    assert found["numpy"].said == f"cannot be imported: {missing} 'numpy'; {fix}"
    assert (
        found["runtime"].said == f"onnxruntime cannot be imported: {missing} 'onnxruntime'; {fix}"
    )
    assert {what for what, each in found.items() if each.state == "bad"} == {"numpy", "runtime"}
    assert {"folder", "space", "clock"} <= set(found)


def test_a_board_without_python_is_reached(sshd, tmp_path):
    device = ssh("board", **{**sshd.options(tmp_path), "python": "/nowhere/python3"})
    found = by_what(device.check())
    device.close()
    assert found["connection"].state == "ok"
    assert found["python"].state == "bad"
    assert "/nowhere/python3" in found["python"].said
    assert found["python"].said.endswith("set python to one of 3.8 or newer")


def test_a_python_that_is_too_old_is_said(tmp_path):
    old = tmp_path / "python"
    old.write_text(
        "#!/bin/sh\necho 'python 3.6 is too old; it must be 3.8 or newer' >&2\n", encoding="utf-8"
    )
    old.chmod(0o755)
    device = local("board", python=str(old), folder=tmp_path / "board")
    assert "python 3.6 is too old" in by_what(device.check())["python"].said
    device.close()


def test_a_board_that_cannot_be_reached_has_one_line(tmp_path):
    device = ssh("dead", host="127.0.0.1", port=1, connect_timeout=2)
    (line,) = device.check()
    assert (line.what, line.state) == ("connection", "bad")
    assert line.said.startswith("127.0.0.1:1 cannot be reached: ")


def test_a_folder_that_cannot_be_written_is_said(bare_python, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    device = local("board", python=str(bare_python), folder=tmp_path / "file/board")
    found = by_what(device.check())
    device.close()
    place = f"{tmp_path}/file/board, mounted at {mount_of(str(tmp_path))},"
    expected = f"{place} cannot be used: not a directory; give another folder in the inventory"
    assert (found["folder"].state, found["folder"].said) == ("bad", expected)


def test_little_space_is_a_warning_and_none_is_bad(bare_python, tmp_path):
    device = local("board", python=str(bare_python), folder=tmp_path / "board", min_free_mb=1e9)
    space = by_what(device.check())["space"]
    device.close()
    assert space.state == "bad"
    assert space.said.endswith("of which 1e+09 stay free; run: qpipe devices clean board")


def test_a_clock_that_is_an_hour_ahead_is_a_warning(bare, monkeypatch):
    now = time.time
    monkeypatch.setattr("qpipe_devices.setup.readiness.time.time", lambda: now() - 3600)
    began = time.monotonic()
    clock = by_what(bare.check())["clock"]
    seconds = time.monotonic() - began
    assert clock.state == "warning"
    ahead, _, words = clock.said.partition(" s ")
    assert 3600 <= float(ahead) <= 3600 + seconds + 1  # the question takes its time
    assert words == "ahead of the host's; set it, as by NTP"


def test_what_a_login_shell_prints_does_not_matter(bare_python, tmp_path):
    noisy = tmp_path / "python"
    noisy.write_text(f'#!/bin/sh\necho Welcome; echo\nexec {bare_python} "$@"\n', encoding="utf-8")
    noisy.chmod(0o755)
    device = local("board", python=str(noisy), folder=tmp_path / "board")
    assert by_what(device.check())["python"].state == "ok"
    device.close()


def test_a_run_at_the_device_is_not_disturbed_by_imports(device):
    device.capabilities()
    check_left_alone(device, r"held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} \(pid \d+\)")
    device.close()
    assert {"numpy", "runtime"} <= set(by_what(device.check()))


def check_left_alone(device: qpipe.Device, holder: str) -> None:
    found = by_what(device.check())
    expected = rf"{holder}; nothing was imported, which would disturb a run"
    assert re.fullmatch(expected, found["imports"].said), found["imports"].said
    assert not {"numpy", "runtime"} & set(found)
    assert "folder" in found


def test_a_run_of_somebody_with_another_folder_is_not_disturbed_either(tmp_path):
    lock = str(tmp_path / "shared")
    theirs, mine = (
        local("board", folder=tmp_path / name, lock=lock) for name in ("theirs", "mine")
    )
    theirs.capabilities()
    check_left_alone(mine, r"held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} \(pid \d+\)")
    theirs.hold(3600, "it smokes")
    theirs.close()
    check_left_alone(
        mine, r"held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} until 20\S+ \S+ [+-]\d{4} \(it smokes\)"
    )
    mine.release(force=True)
    mine.close()
    assert {"numpy", "runtime"} <= set(by_what(mine.check()))


def test_a_device_that_somebody_holds_is_left_alone(device):
    device.hold(3600)
    device.close()
    check_left_alone(device, r"held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} until 20\S+ \S+ [+-]\d{4}")
    device.release()
    device.close()
    assert {"numpy", "runtime"} <= set(by_what(device.check()))


@pytest.mark.parametrize(
    "content", ["", "x", "[]", '{"hold": {}}', '{"hold": {"ends": 1e12}}', None]
)
def test_what_else_may_lie_where_the_lock_should_is_nobodys(content, tmp_path):
    lock = tmp_path / "shared"
    if content is None:
        os.mkfifo(lock)
    else:
        lock.write_text(content)
    device = local("board", folder=tmp_path / "board", lock=str(lock))
    assert {"numpy", "runtime"} <= set(by_what(device.check()))
