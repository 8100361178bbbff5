"""Nights of a lab: what moved is found, confirmed, told once, and over when it is over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from night_lab import NightLab

from qpipe.nightly.night import NightReport
from qpipe.nightly.night_page import write_pages
from qpipe.storage.nights import NightStore
from shell import Shell
from waiting import interruptible, wait_until

ROWS = [f"tiny/{scheme}/packed" for scheme in ("float32", "small", "snapped")]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NightLab:
    monkeypatch.chdir(tmp_path)
    made = NightLab(tmp_path)
    made.build()
    return made


@pytest.fixture(scope="module")
def quiet_nights(tmp_path_factory: pytest.TempPathFactory) -> NightLab:
    """A lab after quiet nights, to be copied."""
    made = NightLab(tmp_path_factory.mktemp("quiet_nights"))
    made.build()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        for _ in range(4):
            report = made.night()
            assert (report.status, list(report.findings), list(report.missed)) == (0, [], [])
    return made


@pytest.fixture
def settled(quiet_nights: NightLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NightLab:
    folder = tmp_path / "lab"
    shutil.copytree(quiet_nights.folder, folder)
    monkeypatch.chdir(folder)
    return NightLab(folder, quiet_nights.now, quiet_nights.nights)


def found(report: NightReport) -> list[tuple[str, str, str]]:
    return [(each["kind"], each["subject"], each["state"]) for each in report.findings]


def test_a_slower_build_is_one_finding_each_until_it_is_acknowledged(settled: NightLab) -> None:
    settled.edit("left.yaml", "slow: 1.0", "slow: 1.08")
    report = settled.night()
    assert report.status == 3
    assert sorted(found(report)) == [("change", f"{row}@left", "new") for row in ROWS]
    finding = report.findings[0]
    assert finding["text"].startswith(f"{finding['subject']}: latency_ms is ")
    assert finding["after"] == pytest.approx(1.08 * finding["before"], rel=0.02)
    assert finding["evidence"].startswith("run again, old and new in turn: ")
    assert finding["beside"] == ["the build changed", "the recipe changed"]
    assert finding["command"].endswith(" --device left --metric latency_ms")

    assert found(settled.night()) == [(k, s, "sustained") for k, s, _ in found(report)]
    with NightStore(Path(".qpipe/results.db")) as store:
        for each in report.findings:
            store.change_finding(each["id"], status="acknowledged")
    for _ in range(2):
        report = settled.night()
        assert (report.status, found(report)) == (0, [])
    settled.edit("left.yaml", "slow: 1.08", "slow: 1.2")
    report = settled.night()
    assert [each["before"] for each in report.findings] == pytest.approx(3 * [3.24], rel=0.02)


def test_a_canary_that_moves_is_one_line_and_marks_the_rows_of_its_board(
    settled: NightLab,
) -> None:
    report = settled.night(right={"speed": 1.3})
    assert report.status == 3
    assert found(report) == [("board", "right", "new")]
    text = report.findings[0]["text"]
    assert text.startswith("right: the canary is ")
    assert text.endswith(" ms: the board moved, not the models")
    assert [row["moved"] for row in report.canaries] == [False, True]
    assert found(settled.night(right={"speed": 1.3})) == [("board", "right", "sustained")]
    report = settled.night()
    assert (report.status, found(report)) == (0, [("board", "right", "recovered")])
    report = settled.night()
    assert (report.status, found(report)) == (0, [])


def test_a_board_that_is_dead_is_one_line(settled: NightLab) -> None:
    report = settled.night(right={"dead": True})
    assert (report.status, found(report)) == (1, [("device", "right", "new")])
    assert report.findings[0]["text"] == "right: nobody answers"
    assert report.measured == 6, "those of the other board"
    assert found(settled.night(right={"dead": True})) == [("device", "right", "sustained")]
    with NightStore(Path(".qpipe/results.db")) as store:
        store.change_finding(report.findings[0]["id"], status="acknowledged", note="on its way")
    report = settled.night(right={"dead": True})
    assert (report.status, found(report)) == (0, [])
    assert found(settled.night()) == [("device", "right", "recovered")]


def test_a_canary_with_wrong_outputs_is_told(settled: NightLab) -> None:
    report = settled.night(left={"wrong": 0.5})
    assert report.status == 3
    (finding,) = report.findings
    assert finding["text"] == "left: the canary's outputs are wrong by up to 0.5"
    assert found(settled.night()) == [("board", "left", "recovered")]


def test_scores_are_paired_with_those_of_the_last_good_night(settled: NightLab) -> None:
    report = settled.night(left={"mistakes": 1})
    assert (report.status, found(report)) == (0, []), "one of 200 may be chance"
    report = settled.night(left={"mistakes": 12})
    assert report.status == 3
    assert {(each["metric"], each["device"]) for each in report.findings} == {("top1", "left")}
    assert report.findings[0]["evidence"].startswith("paired over 200 samples: by -0.0")


def test_what_no_rerun_confirms_is_told_once_and_is_no_regression(settled: NightLab) -> None:
    """The builds are the same, and so is the canary: a small change for a night may be chance."""
    report = settled.night(left={"builds": 1.04})
    assert report.status == 0
    assert {each["state"] for each in report.findings} == {"flaky"}
    assert {each["device"] for each in report.findings} == {"left"}
    assert report.findings[0]["evidence"].startswith("run again on the same build")
    report = settled.night(left={"builds": 1.04})
    assert (report.status, found(report)) == (0, [])


def test_a_board_whose_series_all_move_is_one_line(settled: NightLab) -> None:
    """Its canary did not, nor did the builds: a library of the board, perhaps."""
    report = settled.night(left={"builds": 1.3})
    assert report.status == 3
    (finding,) = report.findings
    assert finding["text"].startswith("left: 3 series moved, their builds did not: from ")
    (finding,) = settled.night(left={"builds": 1.3}).findings
    assert finding["state"] == "sustained"
    assert [each["state"] for each in settled.night().findings] == ["recovered"]


def test_a_recipe_that_fails_is_one_line_and_the_other_runs(settled: NightLab) -> None:
    settled.edit("left.yaml", "schemes:", "scheme:")
    report = settled.night()
    assert (report.status, found(report)) == (1, [("failure", "left.yaml", "new")])
    assert "unknown key 'scheme'" in report.findings[0]["text"]
    settled.edit("left.yaml", "scheme:", "schemes:")
    assert found(settled.night()) == [("failure", "left.yaml", "recovered")]


def test_what_is_not_done_by_the_deadline_is_named(lab: NightLab) -> None:
    lab.now = datetime(2026, 11, 1, 5, 59).astimezone()
    lab.tick = timedelta(seconds=4)  # by each look at the clock
    report = lab.night()
    assert report.status == 1
    assert any("the night was over" in each for each in report.missed), report.missed


def test_a_night_that_was_cut_goes_on(settled: NightLab, monkeypatch: pytest.MonkeyPatch) -> None:
    from qpipe.nightly import recipe_runs

    class Cut(Exception):
        """A power cut."""

    real = recipe_runs.run_recipe

    def cut(resolved, *arguments, **options):  # type: ignore[no-untyped-def]
        if resolved.request.recipe.name == "right.yaml":
            raise Cut
        return real(resolved, *arguments, **options)

    monkeypatch.setattr(recipe_runs, "run_recipe", cut)
    with pytest.raises(Cut):
        settled.night()
    monkeypatch.setattr(recipe_runs, "run_recipe", real)
    with NightStore(Path(".qpipe/results.db")) as store:
        runs = store.runs()
        (name,) = (row["night"] for row in store.nights("shelf") if row["finished"] is None)
    report = settled.go_on()
    assert report.night == name
    assert (report.status, len(report.runs)) == (0, 2)
    with NightStore(Path(".qpipe/results.db")) as store:
        assert len(store.runs()) == len(runs) + 1, "what was done is not done again"
    assert f"night {name} goes on" in settled.said


@pytest.mark.parametrize(
    ("stage", "held", "step"),
    [
        ("snap]", "{snap: {hold: held}}]", "tiny/snapped/snap"),
        ("paced", "{paced: {hold: held}}", "paced"),
    ],
)
def test_a_step_that_runs_at_the_deadline_is_cut_and_named_and_the_next_command_goes_on(
    stage: str, held: str, step: str, lab: NightLab
) -> None:
    lab.now = datetime(2026, 11, 1, 5, 50).astimezone()
    lab.edit("left.yaml", f"[{stage}", f"[{held}")
    (lab.folder / "held").touch()
    lab.ends_after = f"{stage.rstrip(']')}.begun".replace("paced", "left")
    report = lab.night()
    assert report.status == 1
    (cut,) = [line for line in report.missed if "cut" in line]
    assert cut.startswith("left.yaml: cut when the night was over: ")
    assert step in cut
    (lab.folder / "held").unlink()
    again = lab.go_on()
    assert f"night {report.night} goes on" in lab.said
    assert (again.night, again.status, list(again.missed)) == (report.night, 0, [])
    assert again.runs == report.runs
    assert again.measured == 12


def test_recipes_run_at_once_and_what_both_need_is_made_once(lab: NightLab) -> None:
    for name in ("left.yaml", "right.yaml"):
        lab.edit(name, "[paced", "[{paced: {meet: both}}")
        lab.edit(name, "[snap]", "[{snap: {tally: made}}]")
    report = lab.night()
    assert (report.status, list(report.missed), list(report.runs)) == (
        0,
        [],
        ["left.yaml", "right.yaml"],
    )
    assert (lab.folder / "made").read_text(encoding="utf-8") == "8 here\n"


def start_night() -> subprocess.Popen[str]:
    """The command, in a session of its own, as a terminal would start it."""
    command = [Path(sys.executable).with_name("qpipe"), "nightly", "shelf.yaml"]
    with interruptible():
        return subprocess.Popen(
            command,
            start_new_session=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def test_ctrl_c_ends_all_recipes_and_the_same_command_goes_on(lab: NightLab) -> None:
    lab.edit("shelf.yaml", 'until: "06:00"\n', "")
    for name in ("left", "right"):
        lab.edit(f"{name}.yaml", "[paced", "[{paced: {hold: held}}")
        lab.write_board(name)
    Path("held").touch()
    night = start_night()
    begun = [Path("left.begun"), Path("right.begun")]
    assert wait_until(lambda: all(path.exists() for path in begun) or night.poll() is not None)
    os.killpg(night.pid, signal.SIGINT)
    _, told = night.communicate(timeout=60)
    assert night.returncode == 130, told
    with NightStore(Path(".qpipe/results.db")) as store:
        assert [run["state"] for run in store.runs()] == ["interrupted", "interrupted"]
    Path("held").unlink()
    night = start_night()
    _, told = night.communicate(timeout=60)
    assert night.returncode == 0, told
    assert "goes on" in told


def test_the_command_tells_and_its_pages_hold_the_same(
    settled: NightLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(monkeypatch, capsys)
    settled.edit("shelf.yaml", "until", "notify: cat > told.md\nuntil")
    settled.edit("left.yaml", "slow: 1.0", "slow: 1.5")
    out, _ = shell("nightly shelf.yaml", 3)
    assert out.startswith("# shelf, ")
    assert "3 regressions" in out
    told = Path("told.md").read_text(encoding="utf-8")
    assert told.strip() in out
    listed = shell.json("findings")
    assert {(each["state"], each["status"]) for each in listed} == {("new", "open")}
    number = listed[0]["id"]
    shell(f"findings --acknowledge {number} --note 'as meant'")
    assert shell.json("findings")[0]["note"] == "as meant"
    assert "there is no such finding; there is 1, 2, 3" in shell("findings --close 99", 2)[1]
    (series, *_) = shell.json("trend latency_ms --device left")
    assert [len(series["nights"]), series["metric"]] == [5, "latency_ms"]
    assert series["nights"][-1]["value"] == pytest.approx(4.5, rel=0.05)
    assert "#" * 40 in shell("trend latency_ms --device left --scheme snapped")[0]
    assert "it has no nights here; " in shell("trend latency_ms --lab other", 2)[1]


def test_raw_values_go_by_age_and_medians_stay(settled: NightLab) -> None:
    with NightStore(Path(".qpipe/results.db")) as store:
        rows = [
            row
            for night in store.nights("shelf")
            for row in store.night_measurements("shelf", [night["night"]])
        ]
        timed = [row["id"] for row in rows if row["raw"] == "rounds"]
        scored = [row["id"] for row in rows if row["raw"] == "samples"]
        assert all(store.values(each) for each in timed)
        # measured by the machine's clock, which is later than that of the lab's first nights
        newest = max(row["measured_at"] for row in rows)
    settled.edit("shelf.yaml", "{raw: 30d}", "{raw: 1d}")
    settled.now = datetime.fromisoformat(newest) + timedelta(days=3)
    settled.night()
    with NightStore(Path(".qpipe/results.db")) as store:
        assert not any(store.values(each) for each in timed)
        assert all(store.values(each) for each in scored)
        assert json.dumps(store.nights("shelf")[0]["missed"]) == "[]"


def test_pages_show_hostile_text_as_it_is(settled: NightLab, tmp_path: Path) -> None:
    from xml.etree import ElementTree as ET

    report = settled.night(right={"dead": True})
    hostile = "<script>alert(1)</script> & `x` \x1b[31m ]]> *b* [l](javascript:1)"
    report.findings = [{**report.findings[0], "text": hostile, "beside": [hostile]}]
    report.missed = [hostile]
    page = write_pages(report, tmp_path / "pages")
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in html
    assert "http" not in html.replace("http-equiv", "")
    markdown = page.with_name("night.md").read_text(encoding="utf-8")
    assert "\\<script\\>" in markdown
    assert "\\[l\\](javascript:1)" in markdown
    suite = ET.parse(page.with_name("junit.xml")).getroot()
    cases = {case.get("name"): case for case in suite}
    assert cases.keys() == {"all was done", "right"}
    assert "<script>alert(1)</script>" in str(cases["right"][0].get("message"))
