"""A device that failed is checked before its next step; one whose check fails is left alone until a human clears it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faulty_lab import FLOAT, SNAPPED, FaultyLab

from qpipe.engine import device_health

GOOD, UNKNOWN, BAD = ("health", "good"), ("health", "unknown"), ("health", "bad")
OFF, ON = ("power", "off"), ("power", "on")


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FaultyLab:
    return FaultyLab(tmp_path, monkeypatch, capsys)


def test_a_device_is_checked_before_the_step_after_a_failure(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:")
    lab("run recipe.yaml")
    looked = lab.calls("one")
    at = looked.index("placement")
    assert looked[at : at + 4] == ["placement", "capabilities", "store", "store"], (
        "the check, what was brought before"
    )
    assert looked[at + 4 :].count("placement") == 2
    assert lab.trail("one") == [GOOD, UNKNOWN, GOOD]
    unknown = lab.json("devices log one")[1]
    assert (unknown["was"], unknown["why"], unknown["step"]) == (
        "good",
        "placement ended in tears",
        f"{FLOAT}/look",
    )
    assert unknown["during"] == lab.json("runs")[0]["id"]


def test_a_device_that_does_not_come_back_is_bad_and_the_others_go_on(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:dying")
    out, _ = lab("run recipe.yaml --device one --device two", 1)
    assert ": partial in " in out
    bad = "  one is bad: nobody answers; clear it with: qpipe devices clear one \\([12] of its steps were skipped\\)\n"
    assert re.search(bad, out)
    assert f"failed: {FLOAT}/look: one: placement ended in tears (died)\n" in out
    steps = lab.steps()
    assert steps[f"{SNAPPED}/look"]["state"] == "skipped"
    assert (
        steps[f"{SNAPPED}/look"]["error"]
        == "one is bad: nobody answers; clear it with: qpipe devices clear one"
    )
    assert {step["state"] for step in steps.values() if step["device"] == "two"} == {"done"}
    assert lab.trail("one") == [GOOD, UNKNOWN, BAD]


def test_a_bad_device_is_not_used_until_it_is_cleared(lab: FaultyLab) -> None:
    lab.fault("one", "placement:died:dying")
    lab("run recipe.yaml", 1)
    (lab.lab.folder / "one.gone").unlink()
    lab.calls("one")
    _, err = lab("run recipe.yaml --device one --device two", 1)
    (line,) = (line for line in err.splitlines() if "bad since" in line)
    assert line.endswith("Z: nobody answers; clear it with: qpipe devices clear one")
    assert lab.calls("one") == []
    assert {step["state"] for step in lab.steps().values()} == {"done", "cached"}
    assert "one: cleared; it was bad since " in lab("devices clear one --note 'new card'")[0]
    assert lab.json("devices log one")[-1]["why"].endswith(": new card")
    lab("run recipe.yaml")
    assert lab.trail("one") == [GOOD, UNKNOWN, BAD, UNKNOWN, GOOD]
    assert lab("devices clear one") == ("one: its health is good; there is nothing to clear\n", "")


def test_a_device_that_was_changed_in_the_middle_of_a_run_is_bad(lab: FaultyLab) -> None:
    start = "    def placement(self, build):"
    lab.lab.edit("stages.py", start, f"{start}\n        Path('one.arch').write_text('arm')")
    lab.fault("one", "placement:died:")
    out, _ = lab("run recipe.yaml", 1)
    changed = "it was changed in the middle of the run (arch, fingerprint)"
    assert (
        f"one is bad: {changed}; run afresh with --new; clear it with: qpipe devices clear one"
        in out
    )


def test_what_is_unknown_when_a_run_ends_is_checked_by_the_next(lab: FaultyLab) -> None:
    lab.lab.edit("recipe.yaml", "measure: [look]", "measure: [tell]")
    lab.fault("one", "placement:died:")
    lab("run recipe.yaml --retries 0", 1)
    assert lab.trail("one") == [GOOD, UNKNOWN]
    lab("run recipe.yaml")
    assert lab.trail("one") == [GOOD, UNKNOWN, GOOD]


def test_what_was_lost_in_a_run_and_does_not_answer_the_next_is_bad(lab: FaultyLab) -> None:
    lab.lab.edit("recipe.yaml", "measure: [look]", "measure: [tell]")
    lab.fault("one", "placement:died:dying")
    lab("run recipe.yaml --retries 0", 1)
    _, err = lab("run recipe.yaml", 1)
    assert "qpipe: one is bad: nobody answers; clear it with: qpipe devices clear one\n" in err
    assert lab.trail("one") == [GOOD, UNKNOWN, BAD]


def test_a_device_that_was_merely_switched_off_is_not_bad(lab: FaultyLab) -> None:
    lab.lab.write("one.gone", "")
    for _ in range(2):
        _, err = lab("run recipe.yaml", 1)
        assert err.endswith("qpipe: one: nobody answers\n")
    (lab.lab.folder / "one.gone").unlink()
    lab("run recipe.yaml")
    assert lab.trail("one") == [UNKNOWN, GOOD]


def test_a_device_that_died_is_switched_off_and_on(lab: FaultyLab) -> None:
    lab.lab.write("switched.mains", "")
    lab.fault("switched", "placement:died:dying")
    _, err = lab("run recipe.yaml --device switched")
    assert "switched: nobody answers; switching its power off and on\n" in err
    assert lab.trail("switched") == [GOOD, UNKNOWN, OFF, ON, GOOD]


def test_a_device_that_stays_dead_when_its_power_comes_back_is_bad(lab: FaultyLab) -> None:
    lab.fault("switched", "placement:died:dying")
    out, _ = lab("run recipe.yaml --device switched", 1)
    assert (
        "switched is bad: it does not answer 0.3 s after its power is back; look at it; clear it with"
        in out
    )
    assert lab.trail("switched") == [GOOD, UNKNOWN, OFF, ON, BAD]


def test_a_switch_that_does_not_switch_is_told(
    lab: FaultyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_health, "SILENCE_S", 0.1)
    lab.lab.write("devices.yaml", "one: {'null': {}, power: {command: {off: 'true', on: 'true'}}}")
    _, err = lab("devices power one off", 1)
    what = "its power switch does not switch it: it still answers 0.1 s after 'off'"
    assert err == f"qpipe: one: {what}; check 'power' in the inventory\n"


def test_a_device_that_nobody_used_has_nothing_to_clear(lab: FaultyLab) -> None:
    lab("run recipe.yaml")
    assert "qpipe: two: no run has used this device; " in lab("devices clear two", 2)[1]
