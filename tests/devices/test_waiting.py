"""A device that another run is at is waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qpipe import health
from qpipe.errors import BusyError
from qpipe.execute import reach
from qpipe_devices import local


def test_a_run_waits_for_a_device_in_use_and_says_whose_it_is_and_for_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TOLD_S", 2.0)
    holder, waiting = local("here", folder=tmp_path), local("here", folder=tmp_path)
    holder.capabilities()
    said: list[str] = []
    timer = threading.Timer(8, holder.close)  # an agent itself waits for some seconds
    timer.start()
    assert reach(waiting, said.append).cores > 0
    timer.join()
    waiting.close()
    assert all(line.startswith("here: busy: held by ") for line in said)
    assert said[0].endswith("; waiting")
    assert said[1].endswith("; waiting for 0 min"), "told again after a while"


def test_patience_ends(tmp_path: Path) -> None:
    holder, waiting = local("here", folder=tmp_path), local("here", folder=tmp_path)
    holder.capabilities()
    with pytest.raises(BusyError, match="held by"):
        reach(waiting, lambda _: None, patience_s=0)
    holder.close()
    waiting.close()
