"""One board under two names is used in turn, and runs that wait for each other's boards both end."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_lab import Site, make

import qpipe
from qpipe.engine.device_health import Health
from qpipe_devices import local, ssh
from waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = make(tmp_path, names=("board", "twin"))
    yield site
    site.end()


def test_two_names_of_a_board_are_two_views_of_one_lease(site: Site) -> None:
    ended = site.finish(site.run("--device", "board", "--device", "twin", "--only", "int8"))
    assert ended.status == 0, ended.said
    assert "twin: the same board as board; they take turns" in ended.said
    rows = site.query("SELECT device, metric FROM measurements WHERE scheme = 'int8'")
    by_name = {name: {metric for device, metric in rows if device == name} for name in site.names}
    assert by_name["board"] == by_name["twin"] >= {"latency_ms", "agreement", "size_mb"}
    assert site.failures() == set()
    site.check_nothing_left()


@pytest.mark.lab
def test_a_run_waits_no_longer_than_it_is_told_to_and_says_for_whom(site: Site) -> None:
    site.inventory()
    options = {
        "host": site.address,
        "port": site.port,
        "key": site.folder / "user_key",
        "known_hosts": site.folder / "known_hosts",
        "lock": f"{site.board}.lock",
        "folder": str(site.folder / "other"),
    }
    holder = ssh("holder", python=sys.executable, **options)
    holder.purpose = "pid 7, run r1 of theirs.yaml"
    holder.capabilities()
    at_once = site.finish(site.run("--device", "twin", "--wait", "0s"))
    later = site.finish(site.run("--device", "twin", "--wait", "1s"))
    holder.close()
    assert (at_once.status, later.status) == (1, 1)
    busy = (
        r"twin: busy: held by \S+@\S+ since 20\S+ \S+ [+-]\d{4} \(pid 7, run r1 of theirs\.yaml\)"
    )
    assert re.search(rf"^qpipe: {busy}$", at_once.said, re.M), at_once.said
    assert re.search(rf"^  {busy}; waited \d s$", later.said, re.M), later.said
    steps = dict(site.query("SELECT step, state FROM steps"))
    assert steps["net/int8/ort"] == "done", "the host's work"
    assert steps["net/int8/ort@twin"] == "skipped"
    ended = site.finish(site.run("--wait", "a while"))
    assert "--wait 'a while': not a duration; give a number and s, m, h or d" in ended.said
    assert ended.status == 2


def test_two_runs_that_want_each_others_boards_both_get_them(tmp_path: Path) -> None:
    """A lease is given back whatever else its run waits for."""

    def lab(*names: str) -> Health:
        health = Health(patience_s=60)
        for name in names:
            health.add(name, local(name, folder=tmp_path / name))
        return health

    one = lab("a", "b")
    other = lab("b", "a")
    assert one.take_lease("a", "a step")
    assert other.take_lease("b", "a step")
    with ThreadPoolExecutor() as pool:
        second = pool.submit(one.take_lease, "b", "another step")
        first = pool.submit(other.take_lease, "a", "another step")
        wait_until(lambda: False, 0.5)  # both ask for what the other has
        one.give_back("a")
        other.give_back("b")
        assert second.result(60)
        assert first.result(60)
    one.close()
    other.close()


def test_what_a_device_is_used_for_reaches_the_board_while_it_is_held(tmp_path: Path) -> None:
    device = local("board", folder=tmp_path)
    device.silence_s = 0.5
    device.capabilities()
    device.purpose = "run r2"
    other = local("other", folder=tmp_path)

    def is_told() -> bool:
        with pytest.raises(qpipe.BusyError) as error:
            other.capabilities()
        return "(run r2)" in str(error.value)

    assert any(is_told() for _ in range(10))
    device.close()
