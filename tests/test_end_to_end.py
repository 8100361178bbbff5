"""The main job as a user does it: the real command line on the shipped recipe, with few scenes and few latency rounds,
on this machine and over a real sshd."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bare_python import run_alone
from qpipe_plugins.samples.scene_drawing import draw_scene, scene_index

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("end to end"),
]  # a bound for a busy machine; nothing waits for it
ROOT = Path(__file__).parents[1]
RECIPE = "mobilenet_ssd.yaml"
QPIPE = Path(sys.executable).parent / "qpipe"
FEW = ("--set", "scenes=12", "--only", "int8-tensor", "--only", "log4")


def qpipe(*arguments: str | Path, cwd: Path, status: int = 0) -> str:
    """Standard output of a command that must end with this status."""
    done = subprocess.run([QPIPE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=800)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout


def write_recipe(folder: Path) -> None:
    """Write the shipped recipe into a folder, with fewer latency rounds than its default of 16."""
    text = (ROOT / "recipes" / RECIPE).read_text(encoding="utf-8")
    assert text.count("measure: [latency,") == 1
    quick = text.replace("measure: [latency,", "measure: [{latency: {rounds: 4, values: 20}},")
    assert quick.count("calibration_count: 256") == 1
    quick = quick.replace("calibration_count: 256", "calibration_count: 32")
    (folder / RECIPE).write_text(quick, encoding="utf-8")
    (folder / "models").symlink_to(ROOT / "recipes" / "models")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the shipped recipe has run on a few scenes; its devices keep their things there."""
    folder = tmp_path_factory.mktemp("home")
    write_recipe(folder)
    inventory = {"local": {"local": {"folder": str(folder / "here")}}}
    (folder / "devices.yaml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    (folder / "first.json").write_text(
        qpipe("run", RECIPE, *FEW, "--json", cwd=folder), encoding="utf-8"
    )
    return folder


def rows_of(folder: Path, name: str = "first.json") -> dict[str, dict[str, Any]]:
    written = json.loads((folder / name).read_text(encoding="utf-8"))
    return {row["scheme"]: row for row in written["rows"]}


@pytest.mark.slow
def test_a_run_measures_each_scheme_and_float_with_all_metrics(home: Path) -> None:
    rows = rows_of(home)
    assert set(rows) == {"float32", "int8-tensor", "log4"}
    wanted = {
        "latency_ms",
        "size_mb",
        "memory_mb",
        "memory_above_runtime_mb",
        "sqnr_db",
        "agreement",
        "map50",
    }
    for row in rows.values():
        assert wanted <= set(row["metrics"])
        assert {
            "recipe",
            "run",
            "model",
            "scheme",
            "build",
            "runtime",
            "device",
            "on_front",
            "metrics",
        } <= set(row)
        assert row["runtime"] == "onnxruntime"
        assert 0 <= row["metrics"]["map50"]["value"] <= 1
    assert rows["float32"]["metrics"]["agreement"]["value"] == 1
    assert (
        rows["log4"]["metrics"]["size_mb"]["value"]
        < rows["int8-tensor"]["metrics"]["size_mb"]["value"]
    )
    assert (
        rows["int8-tensor"]["metrics"]["size_mb"]["value"]
        < rows["float32"]["metrics"]["size_mb"]["value"] / 2
    )


@pytest.mark.slow
def test_the_same_over_ssh_gives_the_same_accuracy_to_the_last_digit(
    home: Path, sshd: Any, tmp_path: Path
) -> None:
    given = sshd.options(tmp_path / "board")
    options = {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items()
    }
    inventory = {"board": {"ssh": options}}
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    write_recipe(tmp_path)
    # what the host computes is that of the other run: sent to the board, measured and scored there
    cached = ("--cache", home / ".qpipe/cache")
    words = ("run", RECIPE, *FEW, *cached, "--device", "board", "--json")
    there = json.loads(qpipe(*words, cwd=tmp_path))["rows"]
    assert {row["device"] for row in there} == {"board"}
    here = rows_of(home)
    for row in there:
        for metric in ("map50", "agreement", "sqnr_db", "size_mb"):
            assert row["metrics"][metric] == here[row["scheme"]]["metrics"][metric], (
                row["scheme"],
                metric,
            )


@pytest.mark.slow
def test_a_second_run_computes_nothing_but_what_depends_on_the_moment(home: Path) -> None:
    planned = json.loads(qpipe("plan", RECIPE, *FEW, "--json", cwd=home))
    assert not [step["step"] for step in planned if step["will"] == "compute"]
    assert {step["stage"] for step in planned if step["will"] == "measure"} == {"latency", "memory"}
    second = json.loads(qpipe("run", RECIPE, *FEW, "--json", cwd=home))["rows"]
    first = rows_of(home)
    for row in second:
        assert row["run"] != first[row["scheme"]]["run"]
        assert row["metrics"]["map50"] == first[row["scheme"]]["metrics"]["map50"]
    states = {
        step["step"]: step["state"]
        for step in json.loads(qpipe("show", "--json", cwd=home))["steps"]
    }
    done = {name for name, state in states.items() if state == "done"}
    assert all(name.endswith(("/memory", "/latency", "@local", "/samples")) for name in done), done


@pytest.mark.slow
def test_the_winner_is_handed_over_as_a_folder_that_runs(home: Path) -> None:
    qpipe("export", "--device", "local", "--scheme", "log4", "-o", "shipped", cwd=home)
    done = subprocess.run(
        [sys.executable, "shipped/example.py"], cwd=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((home / "shipped" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["measured"]["scheme"] == "log4"
    assert manifest["postprocessing"]["stage"]["name"] == "ssd_boxes"
    picture = home / "scene.png"
    Image.fromarray(draw_scene(0, scene_index("evaluate", 0), 192).image).save(picture)
    fed = run_alone(home, home / "shipped/example.py", "--save", "saved.npz", picture)
    assert (fed.returncode, fed.stderr) == (0, "")
    assert " of the input\n" in fed.stdout
    with np.load(home / "saved.npz") as saved, np.load(home / "shipped/golden.npz") as golden:
        assert np.array_equal(saved["0/in/image"], golden["0/in/image"])
    assert "log4" in qpipe("pareto", cwd=home)


@pytest.mark.slow
def test_wrong_coordinates_of_an_export_are_one_line(home: Path) -> None:
    done = subprocess.run(
        [QPIPE, "export", "--device", "local", "--scheme", "log5", "-o", "x"],
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "qpipe: export: nothing was measured with scheme 'log5'; did you mean 'log4'?\n"
    )
    assert not (home / "x").exists()
