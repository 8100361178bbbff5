"""What steps of the host take of a machine, and which of them run at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scratch_lab import LabShell

from qpipe.engine.host_lane import MOST_OVERTAKINGS, HostLane
from qpipe.engine.plan import Step
from qpipe.engine.resources import resources_of, this_machine
from qpipe.engine.run_control import SharedHost
from qpipe.recipe.stage_call import Call
from qpipe.stages import registry
from qpipe.stages.options import options
from qpipe.types import Resources

GB = 1024  # MB


def quantize(name: str, stage_name: str, **settings: Any) -> Step:
    """A step of a built-in quantize stage, with these options and its defaults for the others."""
    stage = registry.load().stage("quantize", stage_name)
    defaults = {option.name: option.default for option in options(stage.function).values()}
    return Step(name, "quantize", Call(stage, {**defaults, **settings}), {}, {}, name, {})


def lane_of(*steps: Step, capacity: Resources) -> HostLane:
    lane = HostLane(lambda: capacity)
    for position, step in enumerate(steps):
        lane.add(step, position)
    return lane


def starting(lane: HostLane) -> list[str]:
    """The steps that start now."""
    names: Iterator[str | None] = iter(lambda: lane.take(lambda _: True), None)
    return [str(name) for name in names]


def test_three_compensations_do_not_run_at_once_in_4_gb() -> None:
    steps = [quantize(name, "compensate") for name in "abc"]
    assert resources_of(steps[0]).memory_mb >= 1.35 * GB  # measured: 1.4 GB
    lane = lane_of(*steps, capacity=Resources(8, 4 * GB))
    assert starting(lane) == ["a", "b"]
    lane.note_end("a")
    assert starting(lane) == ["c"]


@pytest.mark.parametrize(
    ("stage", "settings"), [("onnxruntime_static", {}), ("compensate", {"threads": 0})]
)
def test_two_steps_that_use_all_cores_do_not_run_beside_each_other(
    stage: str, settings: dict[str, Any]
) -> None:
    steps = [quantize(name, stage, **settings) for name in "ab"]
    lane = lane_of(*steps, quantize("c", "symmetric"), capacity=Resources(4, 64 * GB))
    assert starting(lane) == ["a"]
    lane.note_end("a")
    assert starting(lane) == ["b"]
    lane.note_end("b")
    assert starting(lane) == ["c"]


def test_a_step_that_takes_more_than_there_is_has_the_machine_to_itself() -> None:
    large = quantize("large", "compensate", threads=64, memory_mb=9 * GB)
    lane = lane_of(large, quantize("next", "symmetric"), capacity=Resources(2, 4 * GB))
    assert starting(lane) == ["large"]
    lane.note_end("large")
    assert starting(lane) == ["next"]


def test_trainings_share_no_gpu() -> None:
    trainings = [quantize(name, "qat") for name in "ab"]
    assert starting(lane_of(*trainings, capacity=Resources(8, 64 * GB, gpus=1))) == ["a"]
    assert starting(lane_of(*trainings, capacity=Resources(8, 64 * GB, gpus=0))) == ["a", "b"]


def test_small_steps_go_before_one_that_finds_no_room_but_not_for_ever() -> None:
    count = MOST_OVERTAKINGS + 10
    small = [quantize(f"small{number}", "symmetric") for number in range(count)]
    lane = lane_of(
        quantize("running", "symmetric"),
        quantize("large", "compensate", threads=2),
        *small,
        capacity=Resources(2, 64 * GB),
    )
    started = starting(lane)
    assert started == ["running", "small0"]
    while started[-1] != "large":
        lane.note_end(started[-1] if started[-1] != "running" else "small0")
        now = starting(lane)
        if not now:  # `large` waits for what has run all the time
            lane.note_end("running")
            now = starting(lane)
        started += now
    assert len(started) == MOST_OVERTAKINGS + 2


def test_what_a_plugin_registers_is_kept_to_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if this_machine().threads < 2:
        pytest.skip("needs two processors")
    shell = LabShell(tmp_path, monkeypatch, capsys)
    old = '    for stage in (snap, ranged, aimed, needy):\n        register("quantize", stage)'
    shell.lab.edit(
        "stages.py",
        old,
        f"{old}\n    register('quantize', alone, resources=qpipe.Resources(threads=0))",
    )
    stage = (
        "def alone(model: ir.Model, *, number: int) -> ir.Model:\n"
        "    import os\n"
        "    here = Path(__file__).parent / 'here'\n"
        "    here.mkdir()\n"
        "    time.sleep(0.3)\n"
        "    here.rmdir()\n"
        "    return model\n\n\n"
    )
    shell.lab.edit("stages.py", "def ranged(", f"{stage}def ranged(")
    shell.lab.edit(
        "recipe.yaml",
        "  snapped:",
        "  a: [{alone: {number: 1}}]\n  b: [{alone: {number: 2}}]\n  snapped:",
    )
    shell("run recipe.yaml")
    assert set(shell.states().values()) <= {"done", "cached"}


def test_runs_of_one_process_share_what_the_machine_has() -> None:
    shared = SharedHost()
    lanes = [HostLane(lambda: Resources(8, 4 * GB), shared) for _ in range(2)]
    for lane in lanes:
        for position, name in enumerate("ab"):
            lane.add(quantize(name, "compensate"), position)
    assert starting(lanes[0]) == ["a", "b"]
    assert starting(lanes[1]) == []
    lanes[0].note_end("a")
    assert starting(lanes[1]) == ["a"]


def test_a_step_that_measures_this_machine_has_it_to_itself_among_all_runs() -> None:
    shared = SharedHost()
    assert shared.begin(("quantize", "k"))
    assert not shared.begin(("quantize", "k")), "another run makes it"
    assert not shared.begin(None, is_quiet=True)
    shared.end(("quantize", "k"))
    assert shared.begin(None, is_quiet=True)
    assert not shared.begin(("quantize", "k"))
    shared.end(None, is_quiet=True)
    assert shared.begin(("quantize", "k"))
