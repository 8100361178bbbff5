"""Seven nights on three boards over SSH: a build becomes slower, a board dies, a board slows down, and a page says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from fault_lab import RECIPE, Site
from two_boards import TwoBoards

from qpipe.nightly.lab_file import read_lab
from qpipe.nightly.night import Night, NightReport
from qpipe.nightly.night_page import write_pages
from qpipe.storage.nights import NightStore

# a board runs each inference as often as its file says, by the clock of a machine with one processor: it goes on as its
# own programs compute, the runner and a neighbour, and other programs here do not move it
SITE = """
import importlib.abc, importlib.machinery, sys, time
from pathlib import Path

REPEATS = int(Path("FILE").read_text())
NEIGHBOUR = int(Path("FILE").with_suffix(".neighbour").read_text())
SCHEDULED = 2  # the kind of a clock of a process: the time that it had a processor


def board_time_ns():
    taken = time.process_time_ns()
    return taken + time.clock_gettime_ns(~NEIGHBOUR << 3 | SCHEDULED) if NEIGHBOUR else taken


time.perf_counter_ns = board_time_ns


def slow(module):
    run = module.InferenceSession.run

    def run_repeatedly(self, *arguments):
        for _ in range(REPEATS - 1):
            run(self, *arguments)
        return run(self, *arguments)

    module.InferenceSession.run = run_repeatedly


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "onnxruntime":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_slow(module):
            execute(module)
            slow(module)

        spec.loader.exec_module = execute_and_slow
        return spec


sys.meta_path.insert(0, Finder())
"""
LAB = "name: shelf\nrecipes: [left.yaml, others.yaml]\n"
TIMED = "{latency: {rounds: 5, values: 30, warmup_s: 0.05, round_s: 2, precision: 0, max_load: 1}}"
MORE_LAYERS = 8  # as many again take ten times as long
REPEATS = 4  # of each inference on the board that slows down
LONG = 200  # of each inference, which then takes longer than a program here waits for its turn


@dataclass
class Shelf:
    """The boards `left` and `right` behind one sshd, `old` behind another."""

    boards: TwoBoards
    old: Site
    now: datetime = datetime(2026, 11, 1, 1, 0, tzinfo=UTC)

    def build(self) -> None:
        """Write what they are, and the lab."""
        host = self.boards.host
        for site in (self.boards, self.old):
            site.build()
            site.start()
            site.inventory()
        entries = json.loads((host / "devices.yaml").read_text(encoding="utf-8"))
        entries |= json.loads((self.old.host / "devices.yaml").read_text(encoding="utf-8"))
        for name, entry in entries.items():
            self.repeat(name, 1)
            self._note_neighbour(name, 0)
            entry["ssh"]["python"] = str(self._python(name))
        (host / "devices.yaml").write_text(json.dumps(entries), encoding="utf-8")
        (host / "shelf.yaml").write_text(LAB, encoding="utf-8")
        recipe = RECIPE[: RECIPE.index("measure:")].replace("name: faults\n", "")
        recipe += f"measure: [{TIMED}]\npareto: {{latency_ms: min}}\n"
        (host / "left.yaml").write_text(recipe + "devices: [left]\n", encoding="utf-8")
        (host / "others.yaml").write_text(
            recipe.replace("net.onnx", "other.onnx") + "devices: [right, old]\n", encoding="utf-8"
        )
        (host / "other.onnx").write_bytes((host / "net.onnx").read_bytes())

    def _python(self, name: str) -> Path:
        """The Python of a board, which is as slow as the board."""
        folder = self.boards.folder / f"{name}-site"
        folder.mkdir()
        text = SITE.replace("FILE", str(self._file(name)))
        (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
        program = folder / "python"
        program.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={folder}\nexec {sys.executable} "$@"\n', encoding="utf-8"
        )
        program.chmod(0o755)
        return program

    def _file(self, name: str) -> Path:
        return self.boards.folder / f"{name}-repeats"

    def repeat(self, name: str, times: int) -> None:
        """Have a board run each inference so often from now on."""
        self._file(name).write_text(str(times), encoding="utf-8")

    def _note_neighbour(self, name: str, process: int) -> None:
        self._file(name).with_suffix(".neighbour").write_text(str(process), encoding="utf-8")

    @contextmanager
    def busy_neighbour(self, name: str) -> Iterator[None]:
        """A program that computes on a board, whatever else it does."""
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            self._note_neighbour(name, process.pid)
            yield
        finally:
            process.kill()
            process.wait()
            self._note_neighbour(name, 0)

    def make_network_slower(self) -> None:
        """Put more layers into the network of the left board."""
        path = self.boards.host / "net.onnx"
        model = onnx.load(path)
        nodes = list(model.graph.node)
        weights = np.random.default_rng(1).normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "more"))
        last = "r"
        added = []
        for number in range(MORE_LAYERS):
            added.append(
                onnx.helper.make_node("Conv", [last, "more"], [f"c{number}"], pads=[1, 1, 1, 1])
            )
            added.append(onnx.helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
            last = f"r{number}"
        nodes[2].input[0] = last
        del model.graph.node[:]
        model.graph.node.extend([*nodes[:2], *added, *nodes[2:]])
        onnx.save(model, path)

    def night(self) -> tuple[NightReport, str]:
        """Carry out the next night; its report, and its page as text."""
        self.now += timedelta(days=1)
        with NightStore(Path(".qpipe/results.db")) as store:
            lab = read_lab(Path("shelf.yaml"))
            report = Night(lab, store, Path(".qpipe/cache"), clock=lambda: self.now).run()
        page = write_pages(report, lab.pages)
        text = page.with_name("night.md").read_text(encoding="utf-8")
        return report, text.replace("\\", "")  # what Markdown escapes


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    made = Shelf(TwoBoards(tmp_path / "shelf"), Site(tmp_path / "far", names=("old",)))
    try:
        made.build()
        monkeypatch.chdir(made.boards.host)
        yield made
    finally:
        made.boards.end()
        made.old.end()


def found(report: NightReport) -> set[tuple[str, str, str]]:
    return {(row["kind"], row["subject"], row["state"]) for row in report.findings}


@pytest.mark.lab
def test_the_pages_of_seven_nights_say_what_was_done_to_the_boards_and_nothing_else(
    shelf: Shelf,
) -> None:
    for _ in range(3):
        report, page = shelf.night()
        assert (report.status, found(report), list(report.missed)) == (0, set(), []), page

    shelf.make_network_slower()
    report, page = shelf.night()
    builds = {f"net/{scheme}/ort@left" for scheme in ("float32", "int8")}
    slower = {("change", build, "new") for build in builds}
    assert (report.status, found(report)) == (3, slower), page
    for row in report.findings:
        assert row["after"] > 2 * row["before"]
        assert row["evidence"].startswith("run again, old and new in turn: ")
        assert "the model's bytes changed" in row["beside"]
        assert row["text"] in page

    shelf.old.cut_power()
    report, page = shelf.night()
    slower = {("change", build, "sustained") for build in builds}
    assert (report.status, found(report)) == (3, {*slower, ("device", "old", "new")}), page
    dead = next(row for row in report.findings if row["kind"] == "device")
    assert dead["text"] in page
    assert dead["command"] == "qpipe devices check old"

    shelf.repeat("right", REPEATS)
    report, page = shelf.night()
    gone = ("device", "old", "sustained")
    assert (report.status, found(report)) == (3, {*slower, gone, ("board", "right", "new")}), page
    moved = next(row for row in report.findings if row["kind"] == "board")
    assert 2 < moved["after"] / moved["before"] < 2 * REPEATS
    assert "the board moved, not the models" in page
    assert page.count("right") >= 1

    report, page = shelf.night()
    assert (report.status, found(report)) == (
        3,
        {*slower, gone, ("board", "right", "sustained")},
    ), page
    for words in (*builds, "old", "right: the canary"):
        assert words in page


@pytest.mark.lab
def test_a_busy_neighbour_is_the_board_s_and_over_when_it_is_over(shelf: Shelf) -> None:
    Path("shelf.yaml").write_text(LAB.replace(", others.yaml", ""), encoding="utf-8")
    shelf.repeat("left", LONG)
    for _ in range(3):
        report, page = shelf.night()
        assert (report.status, found(report), list(report.missed)) == (0, set(), []), page

    with shelf.busy_neighbour("left"):
        report, page = shelf.night()
    assert (report.status, found(report)) == (3, {("board", "left", "new")}), page
    (moved,) = report.findings
    assert moved["after"] > 1.2 * moved["before"]
    assert "the board moved, not the models" in page

    report, page = shelf.night()
    assert (report.status, found(report)) == (0, {("board", "left", "recovered")}), page
