"""Steps of the host on the workers of a Dask cluster: the same results, and what goes wrong there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_cluster import STAGE, DaskCluster, Line
from night_lab import NightLab
from scratch_lab import Lab, LabShell

from qpipe.engine import cluster as cluster_module
from qpipe.engine import cluster_worker
from qpipe.engine.cluster_messages import (
    checked_answer,
    decode,
    describe_store,
    differences,
    encode,
)
from qpipe.engine.cluster_worker import open_store
from qpipe.engine.events import Event
from qpipe.engine.request import Request, resolve_request
from qpipe.engine.run import run_recipe
from qpipe.errors import QpipeError
from qpipe.recipe.stage_call import CallByName
from qpipe.storage.cache import MANIFEST, Cache
from qpipe.storage.results import Store
from qpipe.storage.sharing_cache import Sharing, SharingCache
from shell import Shell
from waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler, a worker like this machine, and one with another version of a library."""
    folder = tmp_path_factory.mktemp("cluster")
    metadata = folder / "other" / "pillow-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 0.1\n", encoding="utf-8")
    running = DaskCluster(folder)
    try:
        running.start_scheduler()
        running.start_worker("good")
        running.start_worker("other", {"PYTHONPATH": str(metadata.parent.parent)})
        yield running
    finally:
        running.close()


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    made = LabShell(tmp_path, monkeypatch, capsys)
    made.lab.edit("stages.py", "def ranged(", STAGE.lstrip())
    made.lab.edit("stages.py", "(snap, ranged,", "(snap, nap, ranged,")
    made.lab.edit("recipe.yaml", "  snapped:", "  napped: [nap]\n  snapped:")
    return made


def nap(lab: Lab, options: str) -> None:
    lab.edit("recipe.yaml", "[nap]", f"[{{nap: {options}}}]")


def naps(lab: Lab) -> str:
    """The log of the step of this test."""
    return next(lab.folder.glob(".qpipe/runs/*/tiny+napped+nap/log.txt")).read_text("utf-8")


def manifests(folder: Path) -> dict[str, str]:
    """What lies in a cache: the digests of each result."""
    found = folder.glob(f"*/*/{MANIFEST}")
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8")
        for file in found
        if file.parent.parent.name not in ("measure", "samples")
    }


def test_results_are_those_of_this_machine_and_other_environments_get_nothing(
    shell: LabShell, cluster: DaskCluster
) -> None:
    _, told = shell(f"run recipe.yaml --cluster {cluster.address}")
    assert "is refused: host libraries pillow is 0.1 there and" in told
    assert "install the same there" in told
    assert naps(shell.lab).splitlines() == ["napping on good"], told
    assert set(shell.states().values()) == {"done"}
    shell("run recipe.yaml --new --cache elsewhere")
    here = manifests(shell.lab.folder / "elsewhere")
    assert manifests(shell.lab.folder / ".qpipe/cache") == here
    assert len(here) >= 5


def test_progress_arrives_while_a_step_runs(shell: LabShell, cluster: DaskCluster) -> None:
    events: list[Event] = []
    request = Request(Path("recipe.yaml"), cluster=cluster.address)
    with Store(request.db) as store:
        finished = run_recipe(resolve_request(request), store, events.append)
    assert finished.state == "done"
    progress = [
        (event.done, event.total, event.unit)
        for event in events
        if event.step == "tiny/napped/nap" and event.what == "progress"
    ]
    assert progress[0] == (1, 2, "naps")
    order = [event.what for event in events if event.step == "tiny/napped/nap"]
    assert order[0] == "started"
    assert order[-1] == "done"


def test_what_is_cached_needs_no_cluster(shell: LabShell) -> None:
    shell("run recipe.yaml")
    shell("run recipe.yaml --new --cluster tcp://127.0.0.1:1")


def test_a_step_that_fails_there_names_its_log_here(shell: LabShell, cluster: DaskCluster) -> None:
    nap(shell.lab, "{fail: so it goes}")
    _, told = shell(f"run recipe.yaml --cluster {cluster.address}", status=1)
    assert "quantize nap broke: ZeroDivisionError: so it goes; see .qpipe/runs/" in told
    assert naps(shell.lab).splitlines()[0] == "napping on good"
    assert "Traceback" in naps(shell.lab)


def test_ctrl_c_ends_the_process_there(shell: LabShell, cluster: DaskCluster) -> None:
    mark = shell.lab.folder / "mark"
    nap(shell.lab, f"{{seconds: 600, mark: {mark}}}")
    running = shell.lab.start("run", "recipe.yaml", "--cluster", cluster.address)
    assert wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), 60)
    process = int(mark.read_text().split()[0])
    os.killpg(running.pid, signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert wait_until(lambda: not Path(f"/proc/{process}").exists(), 20)


def test_a_night_sends_the_steps_of_its_recipes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cluster: DaskCluster,
) -> None:
    monkeypatch.chdir(tmp_path)
    lab = NightLab(tmp_path)
    lab.build()
    for name in ("left", "right"):
        lab.edit(f"{name}.yaml", "[snap]", f"[{{snap: {{tally: {tmp_path}/made}}}}]")
        lab.write_board(name)
    Shell(monkeypatch, capsys)(f"nightly shelf.yaml --cluster {cluster.address}")
    assert (tmp_path / "made").read_text(encoding="utf-8") == "8 good\n"


def test_without_a_scheduler_it_says_so_in_one_line(
    shell: LabShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 0.5)
    _, told = shell("run recipe.yaml --cluster tcp://127.0.0.1:1", status=2)
    assert "tcp://127.0.0.1:1: connecting" in told
    assert told.splitlines()[-1] == (
        "qpipe: --cluster tcp://127.0.0.1:1: no scheduler answers there; "
        "start one (dask scheduler), or leave --cluster out"
    )


@pytest.mark.parametrize("word", ["somewhere", "http://host:8786"])
def test_an_address_is_checked_before_anything_runs(shell: LabShell, word: str) -> None:
    reason = f"'{word}' is no cluster; give tcp://HOST:8786, or local"
    _, told = shell(f"run recipe.yaml --cluster {word}", status=2)
    assert told.splitlines()[-1] == f"qpipe: --cluster: {reason}"
    shell.lab.write("recipe.yaml", shell.lab.recipe.read_text() + f"cluster: {word}\n")
    _, told = shell("run recipe.yaml", status=2)
    assert told.splitlines()[-1].endswith(f": {reason}")


@pytest.mark.parametrize(
    "value",
    [
        None,
        0.1,
        [1, [2.5, "x"]],
        ("a", True),
        {"call": {"map": [1]}},
        CallByName("metric", "top1", {"k": 5, "classes": ["a"]}),
    ],
)
def test_options_cross_as_they_are(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_what_json_has_no_word_for_stays_here() -> None:
    for value in (Path("x"), {1: "x"}, b"x"):
        with pytest.raises(TypeError):
            encode({"option": value})


@pytest.mark.parametrize(
    "answer",
    [
        None, [], "done", {}, {"log": "x"}, {"manifest": 1}, {"lost": None},
        {"reason": "x", "failure": "bug"}, {"reason": "x", "failure": "mine", "log_file": ""},
    ],
)  # fmt: skip
def test_what_no_worker_answers_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        checked_answer(answer)


def test_differences_are_named_by_their_place() -> None:
    here = {"host": {"machine": "x86_64"}, "code": {"quantize a": "1", "quantize b": "2"}}
    there = {"host": {"machine": "x86_64"}, "code": {"quantize a": "3"}}
    assert differences(here, there) == [
        "code quantize a is 3 there and 1 here",
        "code quantize b is missing there and 2 here",
    ]


def test_a_worker_that_sees_only_the_shared_folder_gives_and_takes_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    here = SharingCache(tmp_path / "here", Sharing(shared, {}))
    with here.put("import", "a") as value:
        (value / "network").write_text("float", encoding="utf-8")
    there = open_store(describe_store(here), seen=str(tmp_path / "not seen"))
    assert there.root.is_relative_to(tmp_path / "there")
    assert there.has("import", "a")
    with there.put("quantize", "b") as value:
        (value / "network").write_text("int8", encoding="utf-8")
    assert here.has("quantize", "b")
    assert (here.value_folder("quantize", "b") / "network").read_text(encoding="utf-8") == "int8"


def test_a_worker_that_sees_no_cache_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_worker, "PATIENCE_S", 0.0)
    reason = "is not seen there; give a --cache that all machines see"
    with pytest.raises(QpipeError, match=reason):
        open_store(describe_store(Cache(tmp_path / "here")), seen=str(tmp_path / "not seen"))


# ---- what goes wrong with a cluster: minutes, so asked for


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler without workers."""
    running = DaskCluster(tmp_path_factory.mktemp("fragile"))
    try:
        running.start_scheduler()
        yield running
    finally:
        for process in running.processes.values():
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
        running.close()


def start_napping(
    shell: LabShell, cluster: DaskCluster, seconds: int = 600
) -> tuple[subprocess.Popen[str], Path]:
    """A run whose step has begun on a worker, and where it says so."""
    mark = shell.lab.folder / "mark"
    nap(shell.lab, f"{{seconds: {seconds}, mark: {mark}}}")
    running = shell.lab.start("run", "recipe.yaml", "--cluster", cluster.address)
    assert wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), 90)
    time.sleep(3)  # for its first reports
    return running, mark


def ended(running: subprocess.Popen[str]) -> str:
    """What a run said that ends well."""
    _, told = running.communicate(timeout=400)
    assert running.returncode == 0, told
    return told


@pytest.mark.lab
def test_a_worker_that_is_killed_is_replaced_by_another(
    shell: LabShell, fragile: DaskCluster
) -> None:
    fragile.start_worker("a")
    fragile.start_worker("b")
    running, mark = start_napping(shell, fragile)
    first = mark.read_text().split()[1]
    fragile.kill(first)
    told = ended(running)
    other = {"a": "b", "b": "a"}[first]
    assert [line.split()[1] for line in mark.read_text().splitlines()] == [first, other]
    assert "is gone; it starts again on tcp://" in told


@pytest.mark.lab
def test_without_any_worker_left_this_machine_goes_on(
    shell: LabShell, fragile: DaskCluster
) -> None:
    fragile.start_worker("only")
    running, mark = start_napping(shell, fragile)
    fragile.kill("only")
    told = ended(running)
    assert [line.split()[1] for line in mark.read_text().splitlines()] == ["only", "here"]
    assert "no worker is left; it is carried out here" in told


@pytest.mark.lab
def test_a_scheduler_that_is_restarted_gets_the_steps_again(
    shell: LabShell, fragile: DaskCluster
) -> None:
    fragile.start_worker("a")
    running, mark = start_napping(shell, fragile)
    fragile.kill("scheduler")
    assert wait_until(
        lambda: fragile.processes["a"].poll() is not None, 60
    )  # a worker ends with it
    fragile.start_scheduler()
    fragile.start_worker("b")
    ended(running)
    assert [line.split()[1] for line in mark.read_text().splitlines()] == ["a", "b"]


def same_as_here(shell: LabShell) -> None:
    """What is in the cache is what this machine makes."""
    made = manifests(shell.lab.folder / ".qpipe/cache")
    shell("run recipe.yaml --new --cache elsewhere")
    assert manifests(shell.lab.folder / "elsewhere") == made
    assert len(made) >= 5


HOSTILE = """
import os, time
from distributed import get_worker
from qpipe.engine import cluster_worker

class Payload:
    def __reduce__(self):
        return open, (os.environ["MARK"], "w")

def run_step(text):
    worker = get_worker()
    for event in ("no json", "[]", "{}", '{"token": []}'):
        worker.log_event(cluster_worker.json.loads(text)["topic"], event)
    return eval(os.environ["ANSWER"])

run_step.__module__ = "qpipe.engine.cluster_worker"
cluster_worker.run_step = run_step
"""


@pytest.mark.lab
@pytest.mark.parametrize("answer", ["Payload()", "'no json'", "'[]'", '\'{"manifest": "0"}\''])
def test_what_a_worker_answers_that_lies_is_not_used(
    answer: str, shell: LabShell, fragile: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_worker, "PATIENCE_S", 0.5)
    shell.lab.write("hostile.py", HOSTILE)
    mark = shell.lab.folder / "unpickled"
    words = ("--preload", str(shell.lab.folder / "hostile.py"))
    fragile.start_worker("liar", {"ANSWER": answer, "MARK": str(mark)}, words=words)
    _, told = shell(f"run recipe.yaml --cluster {fragile.address}")
    assert "it is carried out here" in told
    assert not mark.exists()
    assert naps(shell.lab).splitlines() == ["napping on this machine"]
    same_as_here(shell)


@pytest.mark.lab
def test_a_worker_whose_plugin_file_differs_is_refused(
    shell: LabShell, fragile: DaskCluster
) -> None:
    """Another file at the same path, as on another machine."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file")
    plugin = shell.lab.folder / "stages.py"
    other = shell.lab.folder / "other.py"
    text = plugin.read_text(encoding="utf-8")
    other.write_text(f"{text}\n# changed\nopen('loaded', 'w')\n", encoding="utf-8")
    mount = f'mount --bind {other} {plugin}; exec "$@"'
    fragile.start_worker("far", prefix=("unshare", "--mount", "sh", "-c", mount, "sh"))
    _, told = shell(f"run recipe.yaml --cluster {fragile.address}")
    assert f"is refused: plugin {plugin} is " in told
    assert naps(shell.lab).splitlines() == ["napping on this machine"]
    assert not (fragile.folder / "loaded").exists(), "nothing of it was run"


def write_certificate(folder: Path) -> None:
    """A key, and a certificate of its own for it: key.pem and cert.pem."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab"
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)


@pytest.mark.lab
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate by openssl")
def test_a_scheduler_behind_tls_takes_those_alone_who_have_its_certificate(
    shell: LabShell, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("tls")
    write_certificate(place)
    files = {"ca-file": "cert.pem", "cert": "cert.pem", "key": "key.pem"}
    words = tuple(
        word for name, file in files.items() for word in (f"--tls-{name}", str(place / file))
    )
    running = DaskCluster(place, protocol="tls", words=words)
    try:
        running.start_scheduler()
        running.start_worker("a")
        stranger = shell.lab.start("run", "recipe.yaml", "--cluster", running.address)
        _, told = stranger.communicate(timeout=120)
        assert stranger.returncode == 2, told
        assert told.splitlines()[-1].endswith(
            f"--cluster {running.address}: it asks for certificates; name them in Dask's "
            "configuration: distributed.comm.tls.ca-file, and client.cert and client.key"
        )
        tls = {"ca-file": "cert.pem", "client": {"cert": "cert.pem", "key": "key.pem"}}
        written = json.dumps({"distributed": {"comm": {"tls": tls}}})
        for file in ("cert.pem", "key.pem"):
            written = written.replace(f'"{file}"', f'"{place / file}"')
        (tmp_path / "dask.yaml").write_text(written, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DASK_CONFIG", str(tmp_path / "dask.yaml"))
            ended(shell.lab.start("run", "recipe.yaml", "--cluster", running.address))
        assert naps(shell.lab).splitlines() == ["napping on a"]
    finally:
        running.close()


@pytest.mark.lab
def test_a_worker_whose_line_is_cut_in_a_step_changes_no_result(
    shell: LabShell, fragile: DaskCluster
) -> None:
    line = Line(fragile.port)
    try:
        fragile.start_worker("far", address=f"tcp://127.0.0.1:{line.port}")
        running, mark = start_napping(shell, fragile)
        line.cut()
        told = ended(running)
        assert [text.split()[1] for text in mark.read_text().splitlines()] == ["far", "here"]
        assert "it is carried out here" in told
        same_as_here(shell)
    finally:
        line.close()


@pytest.mark.lab
@pytest.mark.parametrize("part", ["scheduler", "only"])
def test_what_is_cut_off_is_not_waited_for(
    part: str, shell: LabShell, fragile: DaskCluster
) -> None:
    fragile.start_worker("only")
    running, mark = start_napping(shell, fragile)
    fragile.signal(part, signal.SIGSTOP)
    told = ended(running)
    assert [line.split()[1] for line in mark.read_text().splitlines()][-1] == "here"
    assert "it is carried out here" in told
    same_as_here(shell)


@pytest.mark.lab
def test_a_cluster_that_is_started_here(shell: LabShell) -> None:
    ended(shell.lab.start("run", "recipe.yaml", "--cluster", "local"))
    assert set(shell.states().values()) == {"done"}
    assert naps(shell.lab).splitlines() == ["napping on this machine"]


@pytest.mark.lab
def test_a_worker_with_other_code_is_refused(
    shell: LabShell, fragile: DaskCluster, tmp_path: Path
) -> None:
    import qpipe

    copy = tmp_path / "copy" / "qpipe"
    shutil.copytree(Path(qpipe.__file__).parent, copy)
    with (copy / "engine" / "host_step.py").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    fragile.start_worker("changed", {"PYTHONPATH": str(copy.parent)})
    _, told = shell(f"run recipe.yaml --cluster {fragile.address}")
    assert "is refused: code compile pack is " in told
    assert naps(shell.lab).splitlines() == ["napping on this machine"]
