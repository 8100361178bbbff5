"""A run has the lease of a device only while it has something to do there."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from two_boards import TwoBoards

from waiting import wait_until

SLOW = '''
"""Host work that takes a while."""
import time

import onnx_ir as ir
import qpipe


def slowly(model: ir.Model, *, of: str, seconds: float = 4) -> ir.Model:
    """Wait."""
    time.sleep(seconds)
    return model


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("transform", slowly)
'''


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TwoBoards]:
    """Two boards, and two recipes whose host work takes longer than all that they measure."""
    site = TwoBoards(tmp_path)
    site.build()
    site.start()
    (site.host / "slow.py").write_text(SLOW, encoding="utf-8")
    text = (site.host / "recipe.yaml").read_text(encoding="utf-8")
    text = text.replace("name: faults", "name: NAME\nplugins: [slow.py]")
    text = text.replace("int8: [symmetric]", "int8: [{slowly: {of: NAME}}, symmetric]")
    text = text.replace("devices: [board]", "devices: [left, right]").replace("accuracy, ", "")
    for name in ("one", "other"):
        (site.host / f"{name}.yaml").write_text(text.replace("NAME", name), encoding="utf-8")
    yield site
    site.end()


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_two_runs_interleave_on_the_boards_that_they_share(site: TwoBoards) -> None:
    runs = [site.run_recipe("one.yaml"), site.run_recipe("other.yaml")]
    ends = [site.finish(run) for run in runs]
    assert [ended.status for ended in ends] == [0, 0], [ended.said for ended in ends]
    lifetimes = {
        run: moment(finished) - moment(started)
        for run, started, finished in site.query("SELECT id, started, finished FROM runs")
    }
    worked = dict(
        site.query(
            "SELECT device, sum(seconds) FROM steps WHERE device IS NOT NULL GROUP BY device"
        )
    )
    for board in site.names:
        leases = site.query(
            f"SELECT run, since, until FROM leases WHERE device = '{board}' ORDER BY since"
        )
        for (_, _, until), (_, since, _) in itertools.pairwise(leases):
            assert until <= since, "two have the board at once"
        assert {run for run, _, _ in leases} == lifetimes.keys()
        held = sum(moment(until) - moment(since) for _, since, until in leases)
        idle = held - worked[board]
        # as it is where each run has the board from its beginning to its end
        idle_of_whole_runs = sum(lifetimes.values()) - worked[board]
        assert idle < idle_of_whole_runs / 2, (idle, idle_of_whole_runs)
    site.check_nothing_left()


def test_who_has_a_board_and_for_which_step_is_listed(site: TwoBoards) -> None:
    run = site.run_recipe("one.yaml", "--set", "rounds=400", "--device", "left")
    lock = site.board_folder("left") / "lease.json"
    assert wait_until(lambda: run.poll() is not None or lock.exists())

    def holder() -> str:
        command = [Path(sys.executable).with_name("qpipe"), "devices", "list", "--json"]
        listed = subprocess.run(command, cwd=site.host, check=True, capture_output=True)
        return str(json.loads(listed.stdout)[0]["holder"])

    (run_id,) = site.query("SELECT id FROM runs")[0]
    listed = holder()
    assert listed.startswith(f"run {run_id} of one.yaml, "), listed
    assert "@left" in listed or "left/" in listed
    run.kill()
    run.wait()
    assert holder() == "None"
