"""A step in a process of its own: what it gets, what it leaves, how it ends."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qpipe.engine import stage_results, worker
from qpipe.engine.host_step import ResultFolder, StepInputs
from qpipe.engine.worker import StepRequest, run_in_worker
from qpipe.errors import StageError
from qpipe.recipe.stage_call import CallByName
from qpipe.types import Target

PLUGIN = '''
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Sequence

import numpy as np
import onnx_ir as ir

import qpipe

def given(
    model, target, workdir, progress, *, what: str = "",
    metric: Annotated[Any, qpipe.StageOption("metric")] = None,
    post: Annotated[Any, qpipe.StageOption("postprocess")] = None,
):
    """Do as told."""
    if what == "print":
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.system("echo from a child")
        os.write(1, b"to the descriptor\\n")
    elif what == "exit":
        sys.exit(3)
    elif what == "memory":
        raise MemoryError
    elif what == "lines":
        raise ValueError("one\\ntwo")
    elif what == "workdir":
        assert list(workdir.iterdir()) == []
        (workdir / "scratch").write_text("x")
    elif what == "count":
        tries = workdir / "tries"
        done = len(tries.read_text()) if tries.is_file() else 0
        tries.write_text("x" * (done + 1))
        print("try", done, workdir)
        if done < 2:
            os.kill(os.getpid(), 9)
    elif what == "progress":
        progress(1, 6, "things")
    elif what == "sleep":
        import time
        progress(1)
        time.sleep(600)
    elif what == "stages":
        assert [each.name for each in metric] == ["here", "here"], metric
        assert [each.unit for each in metric] == ["m", "km"]
        assert post(2) == 6
    model.metadata_props["saturates"] = str(target.saturates)
    return model

def count(calibration_samples, evaluation_samples, *, ids: Sequence[str] = ()):
    """Look at the samples."""
    assert [each.id for each in calibration_samples] == ["c0"], calibration_samples
    assert [each.id for each in evaluation_samples] == ["e0", "e1"]
    return ir.from_onnx_text(\'<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Neg(x) }\')

def here(*, unit: str = "m"):
    """A metric."""
    return qpipe.Metric("here", lambda a, b: 0.0, sum, unit)

def times(outputs, *, factor: int = 2):
    """A postprocess."""
    return outputs * factor

@qpipe.hookimpl
def register_stages(register):
    register("quantize", given)
    register("import", count)
    register("metric", here)
    register("postprocess", times)
'''
NETWORK = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Abs(x) }'


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., StepRequest]:
    """A job of the stage `given`, with these options."""
    import onnx_ir as ir

    plugin = tmp_path / "given_stages.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "model").mkdir()
    stage_results.write("import", ir.from_onnx_text(NETWORK), tmp_path / "model")

    def make(**options: Any) -> StepRequest:
        out = tmp_path / "out"
        out.mkdir()
        results = {"model": ResultFolder("import", tmp_path / "model")}
        inputs = StepInputs(results, Target(saturates=True))
        return StepRequest(
            "a step", "quantize", "given", options, inputs, out, tmp_path / "log", [plugin]
        )

    return make


def run(job: StepRequest) -> list[tuple[float, float | None, str]]:
    """To the end; what it said of its progress."""
    heard: list[tuple[float, float | None, str]] = []
    run_in_worker(
        job, lambda done, total=None, unit="": heard.append((done, total, unit)), lambda: False
    )
    return heard


def test_what_a_stage_gives_is_written(job: Callable[..., StepRequest]) -> None:
    made = job()
    run(made)
    assert stage_results.read("quantize", made.out).metadata_props["saturates"] == "True"


def test_all_that_a_stage_prints_goes_to_its_log(
    job: Callable[..., StepRequest], capfd: pytest.CaptureFixture[str]
) -> None:
    made = job(what="print")
    run(made)
    lines = made.log.read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["from a child", "to stderr", "to stdout", "to the descriptor"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("exit", "its process ended with status 3"),
        ("memory", "out of memory; give it fewer samples, or a machine with more"),
        ("lines", "quantize given broke: ValueError: one two; see {log}"),
    ],
)
def test_a_stage_that_ends_badly_is_told_in_one_line(
    what: str, reason: str, job: Callable[..., StepRequest]
) -> None:
    given = job(what=what)
    with pytest.raises(StageError) as error:
        run(given)
    assert str(error.value) == reason.format(log=given.log)


def test_its_workdir_is_empty_and_no_part_of_the_result(job: Callable[..., StepRequest]) -> None:
    made = job(what="workdir")
    run(made)
    assert [path.name for path in made.out.iterdir()] == ["model.onnx"]


def test_what_it_kept_before_it_was_killed_is_there_for_the_next_try_and_gone_once_it_is_done(
    job: Callable[..., StepRequest], tmp_path: Path
) -> None:
    made = replace(job(what="count"), scratch=tmp_path / "aside" / "quantize-key")
    for _ in range(2):
        with pytest.raises(StageError, match="SIGKILL"):
            run(made)
    assert made.scratch
    assert [path.name for path in made.scratch.iterdir()] == ["tries"]
    run(made)
    tries = [
        line.split()[:2]
        for line in made.log.read_text(encoding="utf-8").splitlines()
        if line.startswith("try")
    ]
    assert tries[-1] == ["try", "2"]
    assert not made.scratch.exists()


def test_what_failed_by_itself_leaves_nothing(
    job: Callable[..., StepRequest], tmp_path: Path
) -> None:
    made = replace(job(what="lines"), scratch=tmp_path / "scratch")
    with pytest.raises(StageError, match="one two"):
        run(made)
    assert not made.scratch.exists()  # type: ignore[union-attr]


def test_two_at_the_same_step_do_not_share_a_workdir(
    job: Callable[..., StepRequest], tmp_path: Path
) -> None:
    made = replace(job(what="workdir"), scratch=tmp_path / "scratch")
    assert made.scratch
    made.scratch.mkdir()
    (made.scratch / "theirs").write_text("x", encoding="utf-8")
    opened = os.open(made.scratch, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        run(made)
    finally:
        os.close(opened)
    assert [path.name for path in made.scratch.iterdir()] == ["theirs"]


def test_progress_is_passed_on(job: Callable[..., StepRequest]) -> None:
    assert run(job(what="progress")) == [(1, 6, "things")]


def test_progress_is_passed_on_no_more_often_than_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[Any] = []
    now = 100.0
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now))
    report = worker._ThrottledProgress(SimpleNamespace(send=messages.append))  # type: ignore[arg-type]
    for step in range(7):
        report(step, 6, "things")
        now += 0.75 * worker.TICK_S
    assert [message.done for message in messages] == [0, 2, 4, 6]


def test_stages_that_are_options_arrive_made_and_bound(job: Callable[..., StepRequest]) -> None:
    metrics = [
        CallByName("metric", "here", {"unit": "m"}),
        CallByName("metric", "here", {"unit": "km"}),
    ]
    run(job(what="stages", metric=metrics, post=CallByName("postprocess", "times", {"factor": 3})))


def test_a_stage_that_is_cancelled_is_gone_at_once(job: Callable[..., StepRequest]) -> None:
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_in_worker(job(what="sleep"), lambda *_: stop.set(), stop.is_set)


def test_a_stage_gets_the_samples_it_names(tmp_path: Path) -> None:
    import numpy as np

    from qpipe.types import Dataset, Preprocessing, Sample

    plugin = tmp_path / "given_stages.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    c0, e0, e1 = (Sample(name, {"x": np.float32([i])}) for i, name in enumerate(("c0", "e0", "e1")))
    data = Dataset([c0], [e0, e1], {"x": Preprocessing()})
    (tmp_path / "samples").mkdir()
    (tmp_path / "out").mkdir()
    stage_results.write("samples", data, tmp_path / "samples")
    results = {
        f"{part}_samples": ResultFolder("samples", tmp_path / "samples")
        for part in ("calibration", "evaluation")
    }
    run(
        StepRequest(
            "a step",
            "import",
            "count",
            {},
            StepInputs(results),
            tmp_path / "out",
            tmp_path / "log",
            [plugin],
        )
    )
