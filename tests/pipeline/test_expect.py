"""A float score that is wrong stops a run before anything is quantized; what cannot fit is told by the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import LabShell

SCORED = """

def peak(*, label: int = 3) -> qpipe.Metric:
    \"\"\"Share of samples whose highest output is that of the label.\"\"\"
    return qpipe.Metric("peak", lambda outputs, _: float(np.argmax(outputs["y"]) == label), np.mean, against="float")
"""
RECIPE = (
    ("measure: [pace,", "measure: [{score: {metric: peak}}, pace,"),
    ("devices: [one]", "devices: [one]\nexpect: {peak: {value: 0.6, tolerance: 0.2}}"),
    ("evaluation_count: 3", "evaluation_count: 40"),
)


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    """Its network multiplies numbers from 0 to 1 by 1, 2, 3 and 4: the last is the highest of most."""
    made = LabShell(tmp_path, monkeypatch, capsys)
    made.lab.write("stages.py", scratch_lab.PLUGIN + '    register("metric", peak)\n' + SCORED)
    for old, new in RECIPE:
        made.lab.edit("recipe.yaml", old, new)
    return made


def test_a_float_score_as_expected_lets_the_run_go_on(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    assert set(qpipe.states().values()) == {"done"}
    assert "tiny/expect" in qpipe.states()


def test_a_wrong_float_score_stops_the_run_before_anything_is_quantized(qpipe: LabShell) -> None:
    qpipe.lab.edit("recipe.yaml", "{metric: peak}", "{metric: {peak: {label: 0}}}")
    _, err = qpipe("run recipe.yaml", 1)
    assert (
        "peak of the float network should be 0.6 within 0.2, it is 0 on 40 samples; see what it is fed"
        in err
    )
    states = qpipe.states()
    assert states.pop("tiny/expect") == "failed"
    assert {step for step, state in states.items() if state == "done"} == {
        "samples",
        "tiny/import",
        "tiny/reference",
    }
    assert {state for step, state in states.items() if step.startswith("tiny/snapped")} == {
        "skipped"
    }


def test_what_is_in_the_cache_does_not_get_around_it(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    qpipe.lab.edit("recipe.yaml", "value: 0.6", "value: 0.99")
    qpipe.lab.edit("recipe.yaml", "tolerance: 0.2", "tolerance: 0.001")
    qpipe("run recipe.yaml", 1)
    assert {s for step, s in qpipe.states().items() if step.endswith(("/weight", "/score"))} == {
        "skipped"
    }


def test_more_tolerance_scores_float_again_and_computes_nothing_else(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    qpipe.lab.edit("recipe.yaml", "tolerance: 0.2", "tolerance: 0.3")
    qpipe("run recipe.yaml")
    made = {
        step
        for step, state in qpipe.states().items()
        if state == "done" and not step.startswith("one/")
    }
    assert {step for step in made if "@" not in step} == {"tiny/expect"}


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("{pear: {value: 1, tolerance: 1}}", "nothing scores the float network by 'pear'; did you mean 'peak'?"),
        ("{peak: 0.6}", "'peak' is 0.6; give {value: 0.85, tolerance: 0.02}"),
        ("{peak: {value: 0.6, tolerance: -1}}", "'peak' is {'value': 0.6, 'tolerance': -1}; give"),
        ("{tiny: {pear: {value: 1, tolerance: 1}}}", "nothing scores the float network by 'pear'"),
        ("[peak]", "expect is a map of metrics to {value: 0.85, tolerance: 0.02}"),
    ],
)  # fmt: skip
def test_what_cannot_be_expected_is_told_with_its_line(
    expect: str, message: str, qpipe: LabShell
) -> None:
    qpipe.lab.edit(
        "recipe.yaml", "expect: {peak: {value: 0.6, tolerance: 0.2}}", f"expect: {expect}"
    )
    _, err = qpipe("plan recipe.yaml", 2)
    assert err.startswith("qpipe: recipe.yaml:13: ")
    assert message in err


def test_a_metric_that_nothing_measures_is_no_objective(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "stages.py", 'register("measure", weight)', 'register("measure", weight, gives=["weight"])'
    )
    qpipe.lab.edit("stages.py", "pace, cached=False", 'pace, cached=False, gives=["latency_ms"]')
    qpipe.lab.edit("recipe.yaml", "latency_ms: min", "latncy_ms: min")
    _, err = qpipe("plan recipe.yaml", 2)
    assert (
        err == "qpipe: recipe.yaml:14: nothing measures 'latncy_ms'; did you mean 'latency_ms'?\n"
    )


def test_a_network_that_the_samples_do_not_fit_is_told_by_the_plan(qpipe: LabShell) -> None:
    qpipe.lab.edit("stages.py", "random.random(4, np.float32)", "random.random(5, np.float32)")
    _, err = qpipe("plan recipe.yaml", 2)
    fix = "set size, layout or type of the samples"
    assert err.splitlines()[-1] == (
        "qpipe: recipe.yaml:5: the samples give float32 [1, 5], input 'x' of the network takes float32 [1, 4]; "
        + fix
    )
    assert not (qpipe.lab.folder / ".qpipe/runs").exists()


def test_one_of_two_models_that_cannot_be_read_fails_alone_in_a_run_and_is_told_by_the_plan(
    qpipe: LabShell,
) -> None:
    qpipe.lab.edit("recipe.yaml", "{tiny: tiny}", "{tiny: tiny, other: {onnx: {path: stages.py}}}")
    qpipe("plan recipe.yaml", 2)
    qpipe("run recipe.yaml", 1)
    assert qpipe.states()["other/import"] == "failed"
    assert qpipe.states()["tiny/snapped/packed@one/weight"] == "done"


def test_one_network_fed_in_two_ways_stops_only_where_its_score_is_wrong(qpipe: LabShell) -> None:
    own = "{tiny: {}, samples: {noise: {evaluation_count: %d}}}"
    qpipe.lab.edit("recipe.yaml", "{tiny: tiny}", f"{{tiny: {own % 40}, other: {own % 41}}}")
    right, wrong = "{peak: {value: 0.6, tolerance: 0.2}}", "{peak: {value: 0.99, tolerance: 0.001}}"
    qpipe.lab.edit("recipe.yaml", f"expect: {right}", f"expect: {{tiny: {wrong}, other: {right}}}")
    qpipe("run recipe.yaml", 1)
    states = qpipe.states()
    assert states.pop("tiny/expect") == "failed"
    assert {state for step, state in states.items() if step.startswith("other/")} <= {
        "done",
        "cached",
    }
    own = {
        state
        for step, state in states.items()
        if step.startswith("tiny/") and step.endswith(("/score", "/weight"))
    }
    assert own == {"skipped"}
