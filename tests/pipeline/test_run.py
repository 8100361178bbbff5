"""Runs to the end, runs that fail, runs that are cut: with small stages on a device that runs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import Lab

from qpipe.engine.events import Event
from qpipe.engine.request import Request, resolve_request
from qpipe.engine.run import Finished, run_recipe
from qpipe.storage.results import Store
from waiting import LONGEST_S, wait_until

FLOAT, SNAPPED = "tiny/float32/packed@one", "tiny/snapped/packed@one"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path)


def run(
    lab: Lab, *, new: bool = False, only: tuple[str, ...] = (), **settings: str
) -> tuple[Finished, list[Event]]:
    """A run in this process, and what it said of its steps' ends."""
    events: list[Event] = []
    resolved = resolve_request(Request(Path("recipe.yaml"), settings, only=only, new=new))
    with Store(Path(".qpipe/results.db")) as store:
        finished = run_recipe(
            resolved, store, lambda e: events.append(e) if e.what != "progress" else None
        )
    return finished, events


def ended(events: list[Event], what: str) -> set[str]:
    return {event.step for event in events if event.what == what}


def rows(finished: Finished) -> dict[tuple[str, str], float]:
    """value by (scheme, metric), as the store has it."""
    with Store(Path(".qpipe/results.db")) as store:
        return {
            (row["scheme"], row["metric"]): row["value"] for row in store.measurements(finished.run)
        }


def snap_does(lab: Lab, options: str) -> None:
    lab.edit("recipe.yaml", '{snap: {bits: "${bits}"}}', f"{{snap: {{{options}}}}}")


def test_a_run_computes_all_and_the_next_only_what_measures_the_moment(lab: Lab) -> None:
    first, events = run(lab)
    assert (first.state, first.continued) == ("done", False)
    assert set(first.outcome.states.values()) == {"done"}
    assert ended(events, "done") == set(first.plan.steps)
    assert rows(first)["snapped", "latency_ms"] == 5.0
    second, events = run(lab)
    assert second.run != first.run
    assert ended(events, "done") == {FLOAT, SNAPPED, "one/pace"}
    assert rows(second) == rows(first)
    third, events = run(lab, bits="4")
    assert ended(events, "done") == {
        "tiny/snapped/snap", "tiny/snapped/packed", SNAPPED, FLOAT, "one/pace", f"{SNAPPED}/weight",
    }  # fmt: skip
    assert third.state == "done"


def test_a_scheme_that_is_renamed_keeps_its_cached_numbers_under_its_new_name(lab: Lab) -> None:
    first, _ = run(lab)
    lab.edit("recipe.yaml", "snapped:", "renamed:")
    second, events = run(lab)
    assert "tiny/renamed/packed@one/weight" in ended(events, "cached")
    assert rows(second)["renamed", "weight"] == rows(first)["snapped", "weight"]
    assert not any(scheme == "snapped" for scheme, _ in rows(second))


def test_two_models_from_one_file_are_two_rows(lab: Lab) -> None:
    lab.edit("recipe.yaml", "models: {tiny: tiny}", "models: {tiny: tiny, again: tiny}")
    finished, _ = run(lab)
    with Store(Path(".qpipe/results.db")) as store:
        found = {(row["model"], row["scheme"]) for row in store.measurements(finished.run)}
    assert found == {
        (model, scheme) for model in ("tiny", "again") for scheme in ("float32", "snapped")
    }


def test_a_result_that_rots_in_the_cache_is_computed_again(lab: Lab) -> None:
    first, _ = run(lab)
    (model,) = (lab.folder / ".qpipe/cache/compile").glob(
        f"{first.plan.steps['tiny/snapped/packed'].key}/value/model.onnx"
    )
    model.write_bytes(model.read_bytes()[:-5])
    second, events = run(lab)
    assert "tiny/snapped/packed" in ended(events, "done")
    assert second.state == "done"
    assert rows(second) == rows(first)


@pytest.mark.parametrize(
    "file", ["digests.json", "evaluation/inputs.bin", "calibration/samples.json"]
)
def test_samples_that_rot_are_made_again(file: str, lab: Lab) -> None:
    first, _ = run(lab)
    path = lab.folder / ".qpipe/cache/samples" / first.plan.steps["samples"].key / "value" / file
    path.write_bytes(path.read_bytes()[:5])
    lab.edit("recipe.yaml", '[{snap: {bits: "${bits}"}}]', "[ranged]")
    second, events = run(lab)
    assert second.state == "done"
    assert "samples" in ended(events, "done")


def test_a_failing_stage_fails_its_branch_alone(lab: Lab) -> None:
    snap_does(lab, "fail: 'snap: too hot; wait'")
    finished, events = run(lab)
    assert finished.state == "partial"
    assert finished.outcome.errors == {"tiny/snapped/snap": "snap: too hot; wait"}
    assert ended(events, "skipped") == {"tiny/snapped/packed", SNAPPED, f"{SNAPPED}/weight"}
    assert finished.outcome.states["one/pace"] == "done"
    assert rows(finished) == {
        ("float32", "latency_ms"): 5.0, ("float32", "absent"): 1.0,
        ("float32", "weight"): rows(finished)["float32", "weight"],
    }  # fmt: skip


def test_a_failure_is_tried_again_and_never_replayed(lab: Lab) -> None:
    snap_does(lab, "mark: wish, fail: 'no'")
    first, _ = run(lab)
    (lab.folder / "wish").unlink()
    second, events = run(lab)
    assert (lab.folder / "wish").exists()
    assert (second.run, second.continued) == (first.run, True)
    assert "tiny/snapped/snap" in ended(events, "failed")


def test_new_starts_afresh(lab: Lab) -> None:
    snap_does(lab, "fail: 'no'")
    first, _ = run(lab)
    second, _ = run(lab, new=True)
    assert (second.run != first.run, second.continued) == (True, False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("kill: true", "its process was ended by SIGKILL; likely out of memory"),
        (
            "broken: true",
            "quantize snap broke: ZeroDivisionError: so it goes; see .qpipe/runs/{run}/tiny+snapped+snap/log.txt",
        ),
    ],
)
def test_what_breaks_a_stage_is_told(options: str, reason: str, lab: Lab) -> None:
    snap_does(lab, options)
    finished, _ = run(lab)
    assert finished.state == "partial"
    reason = reason.format(run=finished.run)
    assert finished.outcome.errors == {"tiny/snapped/snap": reason}
    assert list((lab.folder / ".qpipe/cache/aside").iterdir()) == []
    with Store(Path(".qpipe/results.db")) as store:
        (step,) = (step for step in store.steps(finished.run) if step["state"] == "failed")
    assert step["error"] == reason
    if "broken" in options:
        log = Path(".qpipe/runs") / finished.run / "tiny+snapped+snap" / "log.txt"
        assert "ZeroDivisionError: so it goes" in log.read_text(encoding="utf-8"), "the traceback"


def test_a_stage_that_gives_the_wrong_thing_is_told(lab: Lab) -> None:
    lab.edit(
        "stages.py",
        '    model.metadata_props["bits"] = str(bits)\n    return model',
        "    return 'model'",
    )
    finished, _ = run(lab)
    assert finished.outcome.errors == {
        "tiny/snapped/snap": "a quantize stage must give Model, this one gave str"
    }


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    return [qpipe.Measurement(n,", "    return None and [qpipe.Measurement(n,",
         "a measure stage must give list, this one gave NoneType"),
        ('"latency_ms": value', '"latency_ms": float("nan")',
         "latency_ms of tiny/float32/packed: value is nan; give a finite number"),
        ('"latency_ms": value', '"latency_ms": None',
         "latency_ms of tiny/float32/packed: value is None; give a finite number"),
        ('"", deployed=each.name) for each', '"", deployed=each.name, detail={"x": {1}}) for each',
         "latency_ms of tiny/float32/packed: detail['x'] is {1}; give plain JSON"),
        ('"", deployed=each.name) for each', '"", deployed="nobody") for each',
         "one/pace: it gave a number of 'nobody'; give numbers of what was deployed, by name"),
    ],
)  # fmt: skip
def test_a_measurement_that_is_none_fails_its_step_alone(
    old: str, new: str, reason: str, lab: Lab
) -> None:
    lab.edit("stages.py", old, new)
    finished, _ = run(lab)
    assert finished.outcome.errors == {"one/pace": reason}
    assert finished.state == "partial"


def test_what_a_measurement_has_when_it_fails_is_kept_and_the_run_is_partial(lab: Lab) -> None:
    lab.edit("recipe.yaml", "measure: [pace,", "measure: [pace, partly,")
    finished, _ = run(lab)
    assert finished.state == "partial"
    assert finished.outcome.errors == {"one/partly": "only the first was measured"}
    assert [place for place in rows(finished) if place[1] == "part"] == [("float32", "part")]


def test_a_wrong_number_is_not_kept(lab: Lab) -> None:
    lab.edit("stages.py", "deployed.stored.size * factor", "factor * float('nan')")
    first, _ = run(lab)
    second, _ = run(lab)
    assert (
        set(first.outcome.errors)
        == set(second.outcome.errors)
        == {f"{FLOAT}/weight", f"{SNAPPED}/weight"}
    )


def test_a_listener_that_breaks_stops_nobody(lab: Lab) -> None:
    hook = "\n\n@qpipe.hookimpl\ndef step_finished(step, state):\n    raise OSError('deaf')\n"
    lab.write("stages.py", scratch_lab.PLUGIN + hook)
    finished, _ = run(lab)
    assert finished.state == "done"


def test_a_listener_hears_of_every_step(lab: Lab) -> None:
    hook = (
        "\n\n@qpipe.hookimpl\ndef step_finished(step, state, coordinates):\n"
        "    with open('heard', 'a') as heard:\n        print(step, state, file=heard)\n"
    )
    lab.write("stages.py", scratch_lab.PLUGIN + hook)
    finished, _ = run(lab)
    heard = (lab.folder / "heard").read_text(encoding="utf-8").splitlines()
    assert sorted(heard) == sorted(f"{step} done" for step in finished.plan.steps)


def test_more_evaluation_samples_compute_no_calibration_again(lab: Lab) -> None:
    lab.edit("recipe.yaml", '[{snap: {bits: "${bits}"}}]', "[ranged]")
    run(lab)
    _, events = run(lab, evaluation_count="5")
    again = ended(events, "done")
    assert "samples" in again
    assert not {"tiny/histogram", "tiny/snapped/ranged", "tiny/snapped/packed"} & again


HERE = """

class Here:
    '''This machine, as a device: says when it is measured.'''
    shares_host = True

    def __init__(self, name):
        from qpipe_devices.null import NullDevice
        self.name, self.null = name, NullDevice(name, name, 1.0)

    def __getattr__(self, name):
        return getattr(self.null, name)


def here(name: str):
    '''This machine.'''
    return Here(name)


def stamp(deployed, device):
    '''A measurement that takes a while.'''
    began = time.monotonic()
    time.sleep(0.3)
    with open("stamps", "a") as file:
        print(device.name, began, time.monotonic(), file=file)
    return [qpipe.Measurement("stamp", 1.0, "")]


def slowly(model):
    '''A host step that takes a while.'''
    began = time.monotonic()
    time.sleep(0.3)
    with open("stamps", "a") as file:
        print("host", began, time.monotonic(), file=file)
    return model


@qpipe.hookimpl
def register_devices(register):
    register(here)
"""


def test_while_this_machine_is_measured_it_does_nothing_else(lab: Lab) -> None:
    register = '    register("measure", stamp, cached=False)\n    register("transform", slowly)\n'
    lab.write("stages.py", scratch_lab.PLUGIN + register + HERE)
    lab.write("devices.yaml", "one: here\ntwo: here\nfar: 'null'\n")
    lab.edit("recipe.yaml", "devices: [one]", "devices: [one, two, far]")
    lab.edit("recipe.yaml", "measure: [pace,", "measure: [stamp, pace,")
    lab.edit("recipe.yaml", '[{snap: {bits: "${bits}"}}]', "[slowly, snap]")
    finished, _ = run(lab)
    assert finished.state == "done"
    stamps = [
        line.split() for line in (lab.folder / "stamps").read_text(encoding="utf-8").splitlines()
    ]
    taken = sorted((float(began), float(end), who) for who, began, end in stamps)
    assert {who for _, _, who in taken} == {"one", "two", "far", "host"}
    here = {"one", "two"}
    apart = [(a, b) for a, b in pairwise(taken) if here & {a[2], b[2]}]
    assert apart
    assert all(end <= began for (_, end, _), (began, _, _) in apart)


# ---- the command, killed and interrupted


@pytest.fixture
def slow(lab: Lab) -> Iterator[tuple[Lab, subprocess.Popen[str]]]:
    """A run that stands in the middle of a step."""
    lab.write("hold", "")
    snap_does(lab, "hold: hold, mark: mark")
    process = lab.start("run", "recipe.yaml")
    try:
        assert wait_until(lambda: (lab.folder / "mark").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield lab, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def is_over(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def is_empty(leader: int) -> bool:
    """Whether nobody is left of a process group."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_run_that_is_killed_leaves_nothing_running_and_is_continued(
    slow: tuple[Lab, subprocess.Popen[str]],
) -> None:
    lab, process = slow
    stage = int((lab.folder / "mark").read_text(encoding="utf-8"))
    process.kill()
    process.wait()
    assert wait_until(lambda: is_over(stage))
    assert wait_until(lambda: is_empty(process.pid))
    with Store(Path(".qpipe/results.db")) as store:
        (cut,) = store.runs()
    assert cut["state"] == "running"
    lab.edit("stages.py", "while hold and hold.exists()", "while False")
    finished, events = run(lab)
    assert (finished.run, finished.continued, finished.state) == (cut["id"], True, "done")
    assert ended(events, "done") == set(finished.plan.steps)


def test_a_run_that_another_process_is_at_is_left_to_it(
    slow: tuple[Lab, subprocess.Popen[str]],
) -> None:
    lab, process = slow
    lab.edit("stages.py", "while hold and hold.exists()", "while False")
    finished, _ = run(lab)
    assert (finished.state, finished.continued) == ("done", False)
    with Store(Path(".qpipe/results.db")) as store:
        assert [row["state"] for row in store.runs()] == ["done", "running"]
    assert process.poll() is None


def test_ctrl_c_ends_with_130_and_leaves_nothing_running(
    slow: tuple[Lab, subprocess.Popen[str]],
) -> None:
    lab, process = slow
    stage = int((lab.folder / "mark").read_text(encoding="utf-8"))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert (
        "qpipe: interrupted; finished steps are kept, continue with: qpipe run recipe.yaml" in err
    )
    assert wait_until(lambda: is_over(stage))
    assert wait_until(lambda: is_empty(process.pid))
    with Store(Path(".qpipe/results.db")) as store:
        (cut,) = store.runs()
        assert "running" not in {step["state"] for step in store.steps(cut["id"])}


def test_what_cannot_be_read_is_tried_once_in_a_run(lab: Lab) -> None:
    lab.edit(
        "stages.py",
        "    return ir.from_onnx_text(NETWORK)",
        """    if scale < 0:
        with path.open("a") as tries:
            tries.write("x")
        raise qpipe.StageError("it is broken")
    return ir.from_onnx_text(NETWORK)""",
    )
    lab.write("tries", "")
    lab.edit(
        "recipe.yaml", "{tiny: tiny}", "{tiny: tiny, broken: {tiny: {path: tries, scale: -1}}}"
    )
    finished, _ = run(lab)
    assert (lab.folder / "tries").read_text(encoding="utf-8") == "x"
    assert finished.outcome.errors == {"broken/import": "it is broken"}
    assert finished.outcome.states["broken/import"] == "failed"
    assert finished.outcome.states["tiny/snapped/packed@one/weight"] == "done"
