"""A folder on a mount that is full, small, or from which nothing runs: the message names the mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bare_board import by_what, set_up

import qpipe
from qpipe_devices import local
from qpipe_devices.agent import mounts
from small_build import nothing, write_build

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="mounts file systems: needs root")
SAY_WHERE = (
    "import tempfile\nfrom qpipe_agent import wire\nsource, sink = wire.claim()\n"
    "open({told!r}, 'w').write(tempfile.gettempdir())\n"
)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts an empty file system with these options."""
    place = tmp_path / "a card"

    def make(options: str) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        if subprocess.run(command).returncode != 0:
            pytest.skip("nothing can be mounted here")
        return place

    yield make
    subprocess.run(["umount", "--lazy", place], stderr=subprocess.DEVNULL)


def test_the_mount_of_a_path_is_the_nearest_around_it(tmp_path: Path) -> None:
    mount = Path(mounts.mount_of(str(tmp_path / "not there")))
    assert tmp_path.is_relative_to(mount)
    assert mount.stat().st_dev == tmp_path.stat().st_dev
    assert mounts.mount_of("/proc/self") == "/proc"


@ROOT
def test_a_folder_from_which_nothing_runs_is_told_before_anything_is_sent(
    mount: Callable[[str], Path], samples: qpipe.Samples, tmp_path: Path
) -> None:
    place = mount("noexec")
    device = local("board", folder=place / "board")
    folder = by_what(device.check())["folder"]
    assert folder.state == "warning"
    said = f"{place}/board: {place} is mounted noexec, so no runtime can be installed there; "
    assert folder.said == said + "give a folder on another mount in the inventory"
    with pytest.raises(qpipe.DeviceError) as error:
        set_up(device, runtime="onnxruntime")
    assert str(error.value) == f"board: {folder.said}"
    build = write_build(tmp_path / "build", "runner", {"runner": "#!/bin/sh\n"})
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError) as error:
        list(device.infer(*places, 1))
    assert error.value.failure == "configuration"
    assert str(error.value).endswith(
        f": Permission denied: {place} is mounted noexec; set folder to a place on another mount"
    )
    device.close()
    runtime = place / "board/python/0"
    runtime.mkdir(parents=True)
    (place / "board/python/current").write_text("0", encoding="utf-8")
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    assert error.value.failure == "configuration"
    assert f"the runtime in {runtime} cannot be loaded: {place} is mounted noexec" in str(
        error.value
    )


@ROOT
def test_a_small_file_system_is_named_where_it_is_full(
    mount: Callable[[str], Path], build: qpipe.Build, tmp_path: Path
) -> None:
    place = mount("size=1m")
    (place / "full").write_bytes(b"x" * 900_000)
    device = local("board", folder=place / "board", lock=str(tmp_path / "lock"))
    with pytest.raises(qpipe.DeviceError) as error:
        device.store(build.folder, nothing)
    assert error.value.failure == "no room"
    assert f"free in {place}/board, mounted at {place})" in str(error.value)
    device.close()
    found = by_what(device.check())
    assert f" MB free at {place}, of which 64 stay free; " in found["space"].said
    for path in (place / "board/agent").iterdir():
        path.unlink()
    with pytest.raises(OSError, match="No space left"):
        (place / "full").write_bytes(b"x" * (1 << 20))
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    assert error.value.failure == "no room"
    assert f"{place}/board, mounted at {place}: No space left on device" in str(error.value)


@ROOT
def test_a_full_temporary_folder_is_named_where_the_lock_lies_and_matters_nowhere_else(
    mount: Callable[[str], Path], samples: qpipe.Samples, tmp_path: Path
) -> None:
    place = mount("nr_inodes=2")
    (place / "last").touch()
    device = local("board", folder=tmp_path / "board", lock=str(place / "lock"))
    with pytest.raises(qpipe.DeviceError) as error:
        device.capabilities()
    assert error.value.failure == "no room"
    assert str(error.value) == (
        f"board: lock {place}/lock, mounted at {place}, cannot be opened: "
        "No space left on device; free some space there"
    )
    device.lock = ""
    told = tmp_path / "told"
    runner = {"run_it.py": SAY_WHERE.format(told=str(told))}
    build = write_build(tmp_path / "build", "run_it.py", runner)
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    with pytest.raises(qpipe.DeviceError):
        list(device.infer(*places, 1))
    device.close()
    assert told.read_text(encoding="utf-8") == str(tmp_path / "board/tmp")
    assert (tmp_path / "board/tmp").stat().st_mode & 0o777 == 0o700
