"""The report of a run: its numbers are the database's, names stay text, and a run says where it lies."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import measured_runs
import pytest
from scratch_lab import LabShell

from qpipe.storage.results import Store
from shell import Shell

DB = Path(".qpipe/results.db")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """The text, tables and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.cells: list[tuple[str, str]] = []  # data-value, title
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.elements.append(tag)
        if tag in ("script", "style"):
            self.open.append(tag)
            self.scripts.append("")
        if tag == "td" and "data-value" in values:
            self.cells.append((values["data-value"] or "", values.get("title") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run on two devices."""
    path = tmp_path_factory.mktemp("full") / "results.db"
    with Store(path) as store:
        measured_runs.full_run(store, request={"keep": 3.0})
    return path


@pytest.fixture
def qpipe(
    tmp_path: Path,
    full_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """The command in a folder with that run."""
    monkeypatch.chdir(tmp_path)
    DB.parent.mkdir()
    shutil.copy(full_run, DB)
    return Shell(monkeypatch, capsys)


def add_small_run(store: Store, **columns: object) -> str:
    """Add a run of two schemes on one device."""
    run = measured_runs.new_run(store, **columns)
    measured_runs.add_device(store, run, "pi5", rows=measured_runs.rows_of()[:2])
    store.finish_run(run, "done")
    return run


def written_page(qpipe: Shell, line: str = "report -o page.html") -> Page:
    qpipe(line)
    return Page(Path("page.html").read_text(encoding="utf-8"))


def test_every_number_of_the_database_is_on_the_page(qpipe: Shell) -> None:
    page = written_page(qpipe)
    with sqlite3.connect(DB) as db:
        measured = db.execute("SELECT value, unit FROM measurements").fetchall()
    numbers = [(float(value), title) for value, title in page.cells if re.match(r"[\d.-]", value)]
    assert sorted(numbers) == sorted((value, f"{value!r} {unit}".rstrip()) for value, unit in measured)  # fmt: skip


def test_it_says_first_what_the_table_of_the_terminal_says(qpipe: Shell) -> None:
    out, _ = qpipe("pareto")
    page = written_page(qpipe)
    (advice,) = re.findall(r"^mobilenet_v2 on pi5: ship (.*)$", out, re.MULTILINE)
    chosen, *others = advice.split("; ")
    scheme = chosen.partition(",")[0]
    assert f"Ship {scheme} " in page.text
    assert all(other in page.text for other in others)
    run = json.loads(qpipe("runs --json")[0])[0]["id"]
    assert f"qpipe export --device pi5 --scheme {scheme} -o shipped --run {run}" in page.text


def test_failures_come_with_what_to_do_and_the_recipe_is_there(qpipe: Shell) -> None:
    page = written_page(qpipe)
    assert "mobilenet_v2/log4/ov@pi3/deploy no room 1 pi3: no room for model.onnx" in page.text
    assert "free space or run: qpipe devices clean pi3" in page.text
    assert " ".join(measured_runs.RECIPE_TEXT.split()) in page.text
    assert "1f" * 32 in page.text


def test_the_state_of_a_device_around_its_rounds_is_a_range(qpipe: Shell) -> None:
    text = written_page(qpipe).text
    assert "temperature_c cpu 48.1 to 51.7" in text
    assert "governor policy0 performance" in text


def test_nothing_is_loaded_and_the_page_is_one_file(qpipe: Shell) -> None:
    page = written_page(qpipe)
    assert not {"link", "img", "iframe", "base"} & set(page.elements)
    assert [path.name for path in Path().iterdir()] == [".qpipe", "page.html"]


def test_a_device_that_was_not_reached_has_its_place_everywhere(qpipe: Shell) -> None:
    reason = "10.0.0.7:22 cannot be reached: no route to host; is it on?"
    assert (
        written_page(qpipe).text.count(reason) == 3
    )  # as an answer, beside the others, and as a failure
    assert f"shelf-7: not measured: {reason}" in qpipe("pareto")[0]
    assert f"not reached: shelf-7: {reason}" in qpipe("show")[0]
    run = qpipe.json("show")["id"]
    assert qpipe.json("show")["unreachable"] == {"shelf-7": f"shelf-7: {reason}"}
    with Store(DB) as store:
        later = add_small_run(store)
    assert f"not reached in {run}: shelf-7: {reason}" in qpipe(f"compare {run} {later}")[0]
    qpipe(f"report --compare {run} {later} -o page.html")
    assert reason in Page(Path("page.html").read_text(encoding="utf-8")).text


def test_a_diagnosis_of_a_network_of_the_run_is_a_part_of_its_report(qpipe: Shell) -> None:
    layer = {"layer": "block.7/conv", "operator": "Conv", "bits": 4, "remedy": "try equalize"}
    layer |= dict.fromkeys(("only", "without", "weights", "activations"), 12.5)
    rungs = [
        {"name": name, "metrics": {"sqnr_db": value}, "samples": 16, "note": f"note on {name}"}
        for name, value in (("original", 200.0), ("simulated", 17.25), ("device", 16.75))
    ]
    diagnosis = {
        "recipe": "classifier",
        "model": "mobilenet_v2",
        "scheme": "int4",
        "build": "ort",
        "device": "pi5",
        "key": measured_runs.DEPLOYED_KEY,
        "samples": 16,
        "ladder": rungs,
        "layers": [layer],
        "sqnr_db": {"weights": 18.0, "activations": 21.0, "both": 16.9},
    }
    assert "Nothing was diagnosed of these networks" in written_page(qpipe).text
    folder = Path(".qpipe/diagnose/classifier")
    folder.mkdir(parents=True)
    file = folder / "mobilenet_v2-int4-ort-pi5.json"
    file.write_text(json.dumps(diagnosis), encoding="utf-8")
    page = written_page(qpipe)
    for text in (
        "int4 of mobilenet_v2 on pi5",
        "note on simulated",
        "block.7/conv",
        "try equalize",
    ):
        assert text in page.text
    specs = [chart["spec"]["data"]["values"] for chart in json.loads(page.scripts[1])]
    values = [[row["value"] for row in rows] for rows in specs if "rung" in rows[0]]
    assert values == [[17.25, 16.75]]
    file.write_text(json.dumps({**diagnosis, "key": "another network"}), encoding="utf-8")
    assert "block.7/conv" not in written_page(qpipe).text


def test_how_training_went_is_a_chart_of_the_steps_that_trained(qpipe: Shell) -> None:
    assert "Training" not in written_page(qpipe).text
    curve = [(0, None, 12.5), (40, 0.25, 15.75)]
    run = qpipe.json("show")["id"]
    with Store(DB) as store:
        for step, scores in (("qat", curve), ("correct_bias", curve), ("qat-2", [(0, None, 15.5)])):
            at = {"model": "mobilenet_v2", "scheme": "int4", "kind": "quantize", "stage": step}
            store.record_step(run, f"mobilenet_v2/int4/{step}", **at)
            store.record_training(run, f"mobilenet_v2/int4/{step}", scores)
    page = written_page(qpipe)
    assert "How near the outputs on held-out calibration samples are" in page.text
    specs = [chart["spec"]["data"].get("values", []) for chart in json.loads(page.scripts[1])]
    (drawn,) = [rows for rows in specs if rows and "loss" in rows[0]]
    assert [(row["scheme"], row["step"], row["loss"], row["score"]) for row in drawn] == [
        ("int4/qat", 0, None, 12.5),
        ("int4/qat", 40, 0.25, 15.75),
        ("int4/qat-2", 0, None, 15.5),
    ]
    qpipe("report --svg charts")
    assert "15.75" in Path("charts/mobilenet_v2-training.svg").read_text(encoding="utf-8")


def test_every_chart_is_a_picture_in_each_format(qpipe: Shell) -> None:
    with Store(DB) as store:
        add_small_run(store)
    qpipe("report --svg svg --png png --pdf pdf")
    names = sorted(path.stem for path in Path("svg").iterdir())
    assert names == sorted(
        f"mobilenet_v2-pi5-{chart}"
        for chart in ("pareto", "time-against-float", "memory", "distribution", "rounds")
    )
    beginnings = {"svg": b"<svg ", "png": b"\x89PNG\r\n", "pdf": b"%PDF-"}
    for kind, beginning in beginnings.items():
        files = sorted(Path(kind).iterdir())
        assert [file.stem for file in files] == names
        assert all(file.read_bytes().startswith(beginning) for file in files)
    drawn = Path("svg/mobilenet_v2-pi5-pareto.svg").read_text(encoding="utf-8")
    assert "var(--" not in drawn
    assert ">mobilenet_v2 on pi5</text>" in drawn
    assert all(f">{name}</text>" in drawn for name in ("float32", "int8-tensor"))
    assert not Path(".qpipe/reports").exists(), "pictures take the place of the page"


def test_the_table_of_latex_has_the_numbers_of_the_terminal(qpipe: Shell) -> None:
    qpipe("report --latex tables.tex")
    text = Path("tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"Scheme & latency ms & top1 \% & size MB & memory MB & x float & int8 nodes \\" in text
    out, _ = qpipe("pareto --device pi5")
    (row,) = re.findall(r"^\*  int4 +(\S+) ±(\S+) ", out, re.MULTILINE)
    (line,) = re.findall(r"^ *int4\* & (.*)$", text.partition("on pi5")[2], re.MULTILINE)
    assert line.startswith(rf"{row[0]} $\pm$ {row[1]} & ")
    assert r"\textbf{int8-equalized*}" in text


def test_names_are_escaped_in_latex(tmp_path: Path, qpipe: Shell) -> None:
    rows = [measured_runs.Row("50%_&#{}\\~^$<>", 9.0, 0.89, 13.9, 124.0)]
    with Store(tmp_path / "odd.db") as store:
        run = measured_runs.new_run(store)
        measured_runs.add_device(store, run, "pi5", rows=rows)
    qpipe("report --db odd.db --latex tables.tex")
    text = Path("tables.tex").read_text(encoding="utf-8")
    escaped = r"50\%\_\&\#\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}\$\textless{}\textgreater{}"
    assert f"{escaped}*" in text


def test_two_runs_have_a_page_of_their_own(qpipe: Shell) -> None:
    with Store(DB) as store:
        (before,) = [run["id"] for run in store.runs()]
        after = add_small_run(store)
    printed, _ = qpipe(f"compare {before} {after}")
    qpipe(f"report --compare {before} {after} -o page.html")
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    (counts,) = re.findall(rf"^{before} to {after}: (.*)$", printed, re.MULTILINE)
    assert counts in page.text
    assert f"{before}, " in page.text
    _, err = qpipe(f"report {before} --compare {before} {after}", status=2)
    assert err == "qpipe: --compare: it writes a page on two runs alone; leave the rest out\n"


def test_hostile_names_stay_text(tmp_path: Path, qpipe: Shell) -> None:
    rows = [
        measured_runs.Row(name, *numbers)
        for name, numbers in zip(
            ["float32", HOSTILE], [(9.0, 0.89, 13.9, 124.0), (4.0, 0.88, 3.6, 82.0)], strict=True
        )
    ]
    with Store(tmp_path / "hostile.db") as store:
        run = measured_runs.new_run(store, HOSTILE, recipe_text=HOSTILE)
        measured_runs.add_device(store, run, HOSTILE, rows=rows, model=HOSTILE)
        store.record_step(run, HOSTILE, state="failed", error=HOSTILE)
    plain = written_page(qpipe)
    page = written_page(qpipe, "report --db hostile.db -o page.html")
    assert page.text.count(HOSTILE) > 10
    assert set(page.elements) <= set(plain.elements)
    assert len(page.scripts) == len(plain.scripts)
    charts = json.loads(page.scripts[1])
    names = {row["name"] for row in charts[0]["spec"]["data"]["values"]}
    assert names == {"float32", HOSTILE}


def test_a_run_that_measured_nothing_has_a_report(qpipe: Shell) -> None:
    with Store(DB) as store:
        run = measured_runs.new_run(store)
        store.record_step(run, "net/import", state="failed", error="net.onnx: no file; give one")
        store.finish_run(run, "failed")
    page = written_page(qpipe)
    assert "net.onnx: no file; give one" in page.text
    assert "nothing was measured" in page.text.lower()


def test_a_smoke_run_recommends_nothing_and_says_so(qpipe: Shell) -> None:
    with Store(DB) as store:
        add_small_run(store, request={"smoke": True})
    page = written_page(qpipe)
    assert "classifier (smoke run)" in page.text
    assert "its numbers come from too few samples to decide by" in page.text
    assert "Ship " not in page.text


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(qpipe: Shell) -> None:
    Path("taken").write_text("", encoding="utf-8")
    _, err = qpipe("report -o taken/page.html", status=2)
    assert err == "qpipe: taken: file exists; give another path, or check its permissions\n"  # fmt: skip


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def test_a_finished_run_says_where_its_report_lies(lab: LabShell) -> None:
    out, _ = lab("run recipe.yaml")
    (file,) = re.findall(r"^report: (.*)$", out, re.MULTILINE)
    page = Page(Path(file).read_text(encoding="utf-8"))
    assert "tiny on one" in page.text
    assert Path(file).name == f"{json.loads(lab('runs --json')[0])[0]['id']}.html"


TRAINER = '''
"""A stage that says how its training went."""
import math

import onnx_ir as ir

import qpipe
from qpipe.quant.training_curve import set_training_curve


def trainer(model: ir.Model, *, steps: int = 8) -> ir.Model:
    """Train."""
    set_training_curve(model, [(0, None, 4.5), (steps // 2, math.inf, -math.inf), (steps, math.nan, 6.25)])
    return model


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("quantize", trainer)
'''


def test_how_training_went_stays_with_the_run(lab: LabShell) -> None:
    lab.lab.write("trainer.py", TRAINER)
    lab.lab.edit("recipe.yaml", "[stages.py]", "[stages.py, trainer.py]")
    lab.lab.edit("recipe.yaml", "  snapped:", "  trained: [trainer, snap]\n  snapped:")
    for _ in range(2):  # computed, then from the cache
        lab("run recipe.yaml")
        with Store(DB) as store:
            run = lab.json("show")["id"]
            rows = {row["step"]: row["curve"] for row in store.training(run)}
        assert rows["tiny/trained/trainer"] == [[0, None, 4.5], [8, None, 6.25]]
    lab.lab.edit("recipe.yaml", "trainer, snap", "snap")
    lab("run recipe.yaml")
    with Store(DB) as store:
        assert store.training(lab.json("show")["id"]) == []


def test_a_report_that_cannot_be_written_fails_no_run(lab: LabShell) -> None:
    lab.lab.write(".qpipe/reports", "")
    out, _ = lab("run recipe.yaml")
    assert "no report: .qpipe/reports/" in out
