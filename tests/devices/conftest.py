"""A small build and samples, and each way to reach this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from acting_board import board as board
from bare_board import bare_python as bare_python
from bare_board import wheels as wheels
from fault_lab import undisturbed as undisturbed
from small_board import python38 as python38
from small_board import small_board as small_board

import qpipe
from qpipe_devices import local, ssh
from small_build import write_build


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> qpipe.Build:
    return write_build(tmp_path_factory.mktemp("build") / "ort")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> qpipe.Samples:
    """Forty images of random pixels."""
    random = np.random.default_rng(0)
    images = (
        qpipe.Sample(f"{i:03}", {"pixels": random.integers(0, 256, (8, 8, 3), np.uint8)})
        for i in range(40)
    )
    how = {"pixels": qpipe.Preprocessing((120.0, 115.0, 100.0), (58.0, 57.0, 57.5), "NCHW")}
    return qpipe.Samples.write(tmp_path_factory.mktemp("samples"), images, how)


@pytest.fixture(params=["local", "ssh"])
def open_device(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., qpipe.Device]]:
    """Opens a device of either kind, with options, that keeps its things below tmp_path/board; closes it at the end."""
    opened: list[qpipe.Device] = []
    folder = tmp_path / "board"

    def make(**options: object) -> qpipe.Device:
        if request.param == "local":
            device = local("board", **{"folder": folder, **options})  # type: ignore[arg-type]
        else:
            server = request.getfixturevalue("sshd")
            device = ssh("board", **{**server.options(folder), **options})
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def device(open_device: Callable[..., qpipe.Device]) -> qpipe.Device:
    return open_device()
