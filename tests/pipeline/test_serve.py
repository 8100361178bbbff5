"""`qpipe serve`: the real server on loopback answers the ready queries, as JSON and as pages."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import scratch_lab
from scratch_lab import LabShell

from qpipe.report.database_site import QUERIES, TABLES
from qpipe.storage.results import Store

pytest.importorskip("datasette")
pytestmark = pytest.mark.slow
DB = Path(".qpipe/results.db")


@pytest.fixture
def address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[str]:
    """Where a server shows a lab that has run twice, and once as a smoke run."""
    qpipe = LabShell(tmp_path, monkeypatch, capsys)
    for words in ("", "--new", "--smoke"):
        qpipe(f"run recipe.yaml {words}")
    with scratch_lab.interruptible():
        server = subprocess.Popen(
            [Path(sys.executable).with_name("qpipe"), "serve", "--port", "0"],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    assert server.stderr
    printed = ""
    for line in server.stderr:
        printed += line
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", line)
        if found:
            yield found[1]
            break
    else:
        raise AssertionError(printed)
    server.send_signal(signal.SIGINT)
    server.stderr.close()
    assert server.wait(timeout=30) is not None


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def rows(address: str, query: str, **parameters: Any) -> list[dict[str, Any]]:
    words = urlencode({"_shape": "array", **parameters})
    return list(json.loads(read(f"{address}/results/{query}.json?{words}")))


def test_ready_queries_answer_from_the_database(address: str) -> None:
    found = rows(address, "latency_over_runs", device="one", scheme="snapped")
    with Store(DB) as store:
        runs = [run["id"] for run in store.runs() if not run["request"].get("smoke")]
    assert [row["run"] for row in found] == runs
    assert found[0]["value_before"] == found[1]["value"]
    front = rows(address, "front_of_the_newest_run")
    assert {row["device"] for row in front} == {"one"}
    given = {"device": "one", "scheme": "snapped", "metric": "latency_ms", "percent": "0"}
    for name, (_, sql) in QUERIES.items():
        parameters = {key: value for key, value in given.items() if f":{key}" in sql}
        assert isinstance(rows(address, name, **parameters), list), name
    assert rows(address, "schemes_side_by_side", metric="latency_ms")
    for name in TABLES:
        page = read(f"{address}/results/{name}")
        assert "Traceback" not in page
        assert TABLES[name][0].split(",")[0] in page
    assert "Latency of a scheme on a device" in read(f"{address}/results")
    words = urlencode({"sql": "DELETE FROM runs"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        read(f"{address}/results.json?{words}")
