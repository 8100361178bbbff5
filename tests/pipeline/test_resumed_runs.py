"""Runs that go on: what was measured stays until its own step gives other numbers, or is another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_lab import FLOAT, FaultyLab

from qpipe.storage.results import Store


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FaultyLab:
    return FaultyLab(tmp_path, monkeypatch, capsys)


def rows(lab: FaultyLab) -> set[tuple[str, str]]:
    """Device and scheme of what the newest run has a number of, as `qpipe pareto` shows it."""
    return {(row["device"], row["scheme"]) for row in lab.json("pareto")["rows"] if row["metrics"]}


def partial(lab: FaultyLab) -> set[tuple[str, str]]:
    """A run on two devices, on the second of which one scheme failed."""
    lab.lab.edit("recipe.yaml", "devices: [one]", "devices: [one, two]")
    lab.fault("two", "placement:build:")
    lab("run recipe.yaml", 1)
    found = rows(lab)
    assert len(found) == 3
    return found


def test_a_device_that_is_off_when_a_run_goes_on_keeps_its_numbers(lab: FaultyLab) -> None:
    before = partial(lab)
    lab.lab.write("one.gone", "")
    lab("run recipe.yaml", 1)
    assert rows(lab) == before | {("two", "float32"), ("two", "snapped")}
    (run,) = lab.json("runs")
    with Store(Path(".qpipe/results.db")) as store:
        assert len(store.verdicts(run["id"])) == 4
        assert store.capabilities(run["id"]).keys() == {"one", "two"}


def test_a_device_that_dies_when_a_run_goes_on_keeps_its_numbers(lab: FaultyLab) -> None:
    before = partial(lab)
    lab.fault("one", "placement:died:dying")
    lab("run recipe.yaml", 1)
    assert before <= rows(lab)
    assert lab.steps()[f"{FLOAT}/look"]["state"] == "failed"


def test_numbers_of_what_was_changed_since_are_not_kept(lab: FaultyLab) -> None:
    partial(lab)
    lab.lab.edit("stages.py", '("looks", 1.0, "")', '("looks", 2.0, "")')
    lab.fault("one", "placement:build:", "placement:build:")
    lab("run recipe.yaml", 1)
    assert {device for device, _ in rows(lab)} == {"two"}


def test_numbers_of_steps_that_are_no_more_go_at_the_end(lab: FaultyLab) -> None:
    partial(lab)
    old = lab.lab.recipe.parent.joinpath("stages.py").read_text(encoding="utf-8")
    look = old[old.index("def look(") : old.index("def tell(")]
    both = 'return [qpipe.Measurement("seen", 1.0, "", deployed=each.name) for each in deployments.present]'
    lab.lab.edit(
        "stages.py", look, f"def look(deployments, device: qpipe.Device):\n    {both}\n\n\n"
    )
    lab.lab.write("one.gone", "")
    lab("run recipe.yaml", 1)
    metrics = {
        (row["device"], name) for row in lab.json("pareto")["rows"] for name in row["metrics"]
    }
    assert metrics == {("one", "looks"), ("two", "seen")}
