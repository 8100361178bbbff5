"""Failures have types; what may pass is tried again on devices, each attempt a row of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from faulty_lab import FLOAT, ONE_AT_A_TIME, SNAPPED, FaultyLab

from waiting import LONGEST_S

LOOK = f"{FLOAT}/look"
PAUSE = "from qpipe.engine import retry\nretry.BACK_OFF_S = (600.0,)"


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FaultyLab:
    return FaultyLab(tmp_path, monkeypatch, capsys)


def test_each_failed_step_says_what_kind_of_failure_it_was(lab: FaultyLab) -> None:
    breaking = "{fail: too hot}", "{kill: true}", "{broken: true}"
    schemes = "\n".join(f"  s{n}: [{{snap: {options}}}]" for n, options in enumerate(breaking))
    lab.lab.edit("recipe.yaml", '  snapped: [{snap: {bits: "${bits}"}}]', schemes)
    out, _ = lab("run recipe.yaml", 1)
    assert "failed: tiny/s0/snap: too hot (build)\n" in out
    steps = lab.steps()
    failures = [steps[f"tiny/s{n}/snap"]["failure"] for n in range(3)]
    assert failures == ["build", "out of memory", "bug"]
    assert {step["failure"] for step in steps.values() if step["state"] != "failed"} == {None}
    assert lab.json("runs")[0]["failures"] == {"build": 1, "out of memory": 1, "bug": 1}
    assert {step["attempts"] for step in steps.values() if step["state"] == "failed"} == {1}, (
        "no retry on the host"
    )


def test_what_may_pass_is_tried_again_and_each_attempt_is_a_row(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:", "placement:timeout:")
    _, err = lab("run recipe.yaml")
    assert f"{LOOK}: failed, will be retried" in err
    shown = lab.json(f"show {LOOK}")
    assert (shown["state"], shown["attempts"], shown["error"]) == ("done", 3, None)
    tries = [(each["attempt"], each["state"], each["failure"]) for each in shown["tries"]]
    assert tries == [(1, "failed", "died"), (2, "failed", "timeout"), (3, "done", None)]
    assert [number["attempt"] for number in shown["measurements"]] == [3]
    assert "one: placement ended in tears" in lab(f"show {LOOK}")[0]


@pytest.mark.parametrize(
    "failure", ["build", "out of memory", "wrong answer", "no room", "configuration"]
)
def test_what_does_not_pass_is_not_tried_again_and_leaves_the_device_good(
    failure: str, lab: FaultyLab
) -> None:
    lab.fault("one", f"placement:{failure}:")
    out, _ = lab("run recipe.yaml", 1)
    assert f"failed: {LOOK}: one: placement ended in tears ({failure})\n" in out
    assert lab.steps()[f"{SNAPPED}/look"]["state"] == "done"
    assert lab.trail("one") == [("health", "good")]


def test_a_step_that_fails_each_time_has_failed_after_three_attempts(lab: FaultyLab) -> None:
    lab.fault("one", *["placement:died:"] * 3)
    out, _ = lab("run recipe.yaml", 1)
    assert f"failed: {LOOK}: one: placement ended in tears (died, attempt 3)\n" in out
    assert lab.steps()[f"{SNAPPED}/look"]["state"] == "done"
    assert lab("run recipe.yaml")
    assert lab.json(f"show {LOOK}")["attempts"] == 4, "the run that goes on counts on"


def test_the_command_says_how_often(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:", "placement:died:")
    lab("run recipe.yaml --retries 0", 1)
    assert lab.steps()[LOOK]["attempts"] == 1
    lab.fault("one", *["placement:died:"] * 4)
    lab("run recipe.yaml --new --retries 4")
    assert lab.steps()[LOOK]["attempts"] == 5


def test_numbers_of_two_attempts_are_never_mixed(lab: FaultyLab) -> None:
    lab.lab.edit("recipe.yaml", "measure: [look]", "measure: [tell]")
    lab.lab.edit("recipe.yaml", "pareto: {looks: max}", "pareto: {told: max}")
    lab.fault("one", "placement:died:")
    lab("run recipe.yaml")
    numbers = [(n["metric"], n["attempt"]) for n in lab.json("show one/tell")["measurements"]]
    assert numbers == [("told", 2), ("told", 2)]
    lab.fault("one", *["placement:died:"] * 3)
    lab("run recipe.yaml --new", 1)
    numbers = [(n["metric"], n["attempt"]) for n in lab.json("show one/tell")["measurements"]]
    assert numbers == [("early", 3)], "what the last attempt has is kept"


def test_ctrl_c_ends_a_pause_between_two_attempts(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:")
    lab.lab.edit(
        "stages.py",
        "\n\nfrom qpipe_devices.null",
        f"\n\n{ONE_AT_A_TIME}\n{PAUSE}\nfrom qpipe_devices.null",
    )
    process = lab.lab.start("run", "recipe.yaml")
    try:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        retried = next(line for line in lines if "will be retried" in line)
        assert retried.startswith(f"{LOOK}: ")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=LONGEST_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert lab.steps()[LOOK]["state"] == "pending"
    assert [each["state"] for each in lab.json(f"show {LOOK}")["tries"]] == ["failed"]


def test_steps_that_are_skipped_for_one_cause_are_told_in_one_line(lab: FaultyLab) -> None:
    lab.lab.edit("recipe.yaml", '[{snap: {bits: "${bits}"}}]', "[{snap: {fail: too hot}}]")
    _, err = lab("run recipe.yaml", 1)
    lines = [line for line in err.splitlines() if "skipped" in line]
    assert lines == ["3 steps: skipped: needs tiny/snapped/snap"]


def test_a_smoke_run_says_that_it_leaves_the_float_score_alone(lab: FaultyLab) -> None:
    lab.lab.edit("recipe.yaml", "measure: [look]", "measure: [look, {score: {metric: closeness}}]")
    lab.lab.edit(
        "recipe.yaml",
        "devices: [one]",
        "devices: [one]\nexpect: {closeness: {value: 7, tolerance: 0.1}}",
    )
    _, err = lab("run recipe.yaml --smoke")
    assert (
        "smoke: the expected score of the float network is not checked; so few samples tell nothing\n"
        in err
    )
    lab("run recipe.yaml", 1)  # where it is checked
    recipes = [line.split("  ")[1] for line in lab("runs")[0].splitlines()[1:]]
    assert recipes == ["lab", "lab (smoke)"]
    assert " of lab (smoke): done\n" in lab(f"show --run {lab.json('runs')[1]['id']}")[0]
