"""A user's own metric, one Python file named in a recipe: the real command line on a small network, on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from bare_python import run_alone
from models import conv_net, run
from qpipe.compare import evidence, measured_rows
from qpipe.storage.results import Store

pytestmark = pytest.mark.xdist_group("own metric")
COUNT = 24
AGREEMENT = {"iou": 0.5, "score": 0.5, "axis": None}
T_23 = 2.0686576  # Student's t, 97.5 %, 23 degrees of freedom
METRIC = '''
"""How much of a network's best score is left once its error is taken off."""
import numpy as np
import qpipe
from distance import between

def headroom(*, weight: float = 1.0) -> qpipe.Metric:
    """Best score of the float network less the weighted distance of the outputs."""
    def contribution(outputs, of_float):
        return float(of_float["logits"].max()) - weight * between(outputs["logits"], of_float["logits"])

    return qpipe.Metric("headroom", contribution, lambda all_: float(np.mean(all_)), against="float_outputs")

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("metric", headroom)
'''
DISTANCE = (
    "import numpy as np\n\ndef between(one, other):\n    return float(np.abs(one - other).max())\n"
)
SAMPLES = '''
"""Noise, some of it loud."""
import functools
import numpy as np
import qpipe
from noise_file import read

def noise(*, evaluation_count: int = 24) -> qpipe.Dataset:
    """Draw noise of different loudness."""
    def draw(part, count):
        random = np.random.default_rng(len(part))
        for i in range(count):
            loud = 1 + 3 * random.random()
            yield qpipe.Sample(f"{part}{i}", {"image": (loud * random.normal(size=(3, 16, 16))).astype(np.float32)})

    how = {"image": qpipe.Preprocessing()}
    decode = functools.partial(read, shape=(3, 16, 16))
    return qpipe.Dataset(draw("c", 16), draw("ev", evaluation_count), how, decode=decode)

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", noise)
'''
DECODER = '''
"""Noise in files."""
import numpy as np


def read(file, *, shape, gain=1.0):
    """The numbers of a file of floats."""
    return {"image": (np.fromfile(file, np.float32) * np.float32(gain)).reshape(shape)}
'''
RECIPE = """
name: own
plugins: [./my_metric.py, ./my_samples.py]
samples: noise
models: {net: {onnx: {path: net.onnx}}}
schemes:
  int8: [{symmetric: {granularity: channel}}]
  int4: [{symmetric: {granularity: channel, bits: 4}}]
measure: [{accuracy: {metric: headroom}}]
pareto: {headroom: max}
"""


def qpipe(*words: str, at: Path) -> Any:
    """What a command that must succeed prints with --json."""
    command = [Path(sys.executable).parent / "qpipe", *words, "--json"]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run."""
    folder = tmp_path_factory.mktemp("own")
    texts = {
        "my_metric.py": METRIC, "distance.py": DISTANCE, "my_samples.py": SAMPLES, "noise_file.py": DECODER, "unrelated.py": "", "r.yaml": RECIPE,
        "devices.yaml": f"local: {{local: {{folder: {folder / 'here'}}}}}\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    ir.save(conv_net(), folder / "net.onnx")
    (folder / "rows.json").write_text(
        json.dumps(qpipe("run", "r.yaml", at=folder)["rows"]), encoding="utf-8"
    )
    return folder


def rows(home: Path) -> dict[str, Any]:
    return {
        row["scheme"]: row for row in json.loads((home / "rows.json").read_text(encoding="utf-8"))
    }


def contributions(home: Path) -> dict[str, measured_rows.Candidate]:
    """What was measured, with the raw values, by scheme."""
    with Store(home / ".qpipe" / "results.db") as store:
        first = rows(home)["int8"]["run"]
        return {row.scheme: row for row in measured_rows.candidates(store, first)}


def test_it_has_a_value_and_an_interval_for_each_scheme(home: Path) -> None:
    for row in rows(home).values():
        headroom = row["metrics"]["headroom"]
        assert headroom["n"] == COUNT
        assert headroom["low"] < headroom["value"] < headroom["high"]


def test_its_value_for_float_is_what_onnxruntime_and_numpy_say(home: Path) -> None:
    random = np.random.default_rng(2)
    drawn = [(1 + 3 * random.random()) * random.normal(size=(1, 3, 16, 16)) for _ in range(COUNT)]
    best = [
        float(out["logits"].max())
        for out in run(conv_net(), [each.astype(np.float32) for each in drawn])
    ]
    measured = rows(home)["float32"]["metrics"]["headroom"]
    # float32 kernels in another order: a few roundings of sums of a hundred products
    assert measured["value"] == pytest.approx(np.mean(best), rel=1e-5)
    half = T_23 * np.std(best, ddof=1) / np.sqrt(COUNT)
    # the bootstrap is not Student's interval, but near it
    assert (measured["high"] - measured["low"]) / 2 == pytest.approx(half, rel=0.2)


def test_two_schemes_are_compared_sample_by_sample(home: Path) -> None:
    found = {name: row.metrics["headroom"] for name, row in contributions(home).items()}
    one, other = (np.array(found[name].rounds[0]) for name in ("int8", "int4"))
    half = T_23 * np.std(one - other, ddof=1) / np.sqrt(COUNT)
    low, high = evidence.difference(found["int8"], found["int4"])
    assert (low, high) == pytest.approx(
        (np.mean(one - other) - half, np.mean(one - other) + half), rel=1e-6
    )
    assert low > 0


def test_the_front_is_drawn_by_paired_differences_where_intervals_overlap(home: Path) -> None:
    int4, better = (rows(home)[name] for name in ("int4", "int8"))
    assert better["metrics"]["headroom"]["low"] < int4["metrics"]["headroom"]["high"]
    assert not int4["on_front"]
    assert int4["reason"].startswith("dominated by ")


def keys(home: Path) -> dict[str, tuple[str, str, str]]:
    """Kind, stage and key of each step of a run."""
    return {
        step["step"]: (step["kind"], step["stage"], step["key"])
        for step in qpipe("plan", "r.yaml", at=home)
    }


@pytest.fixture(scope="module")
def unedited(home: Path) -> dict[str, tuple[str, str, str]]:
    return keys(home)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("my_metric.py", {("measure", "accuracy")}),
        ("my_samples.py", {("samples", "noise")}),
        ("unrelated.py", set()),
    ],
)
def test_an_edit_changes_the_keys_of_what_depends_on_it_and_no_others(
    home: Path, unedited: dict[str, tuple[str, str, str]], file: str, expected: set[tuple[str, str]]
) -> None:
    before = (home / file).read_text(encoding="utf-8")
    (home / file).write_text(before + "\n# edited\n", encoding="utf-8")
    try:
        now = keys(home)
    finally:
        (home / file).write_text(before, encoding="utf-8")
    assert now.keys() == unedited.keys()
    assert {now[step][:2] for step in now if now[step] != unedited[step]} == expected


def test_after_an_edit_of_a_module_beside_it_a_run_scores_anew_from_the_same_builds(
    home: Path,
) -> None:
    text = (home / "distance.py").read_text(encoding="utf-8")
    try:
        (home / "distance.py").write_text(
            text.replace("return float(", "return 2 * float("), encoding="utf-8"
        )
        again = {
            row["scheme"]: row["metrics"]["headroom"]["value"]
            for row in qpipe("run", "r.yaml", at=home)["rows"]
        }
    finally:
        (home / "distance.py").write_text(text, encoding="utf-8")
    states = {
        step["step"]: (step["kind"], step["state"]) for step in qpipe("show", at=home)["steps"]
    }
    assert {kind for kind, state in states.values() if state == "done"} <= {
        "measure",
        "deploy",
        "upload",
    }
    assert {
        state for kind, state in states.values() if kind in ("quantize", "compile", "calibrate")
    } == {"cached"}
    floats = rows(home)["float32"]["metrics"]["headroom"]["value"]
    for scheme in ("int8", "int4"):
        once = rows(home)[scheme]["metrics"]["headroom"]["value"]
        assert again[scheme] == pytest.approx(floats - 2 * (floats - once), rel=1e-5)


def test_an_exported_folder_feeds_files_by_the_code_beside_the_plugin(
    home: Path, tmp_path: Path
) -> None:
    words = ["export", "--device", "local", "--scheme", "int8", "-o", tmp_path / "shipped"]
    command = [Path(sys.executable).parent / "qpipe", *words]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=500)
    program = f"python {tmp_path}/shipped/example.py"
    assert done.stdout.splitlines() == [
        f"{tmp_path}/shipped: code, example.py, golden.npz, load.py, manifest.json, model.onnx; "
        f"try it with: {program}",
        f"feed it files of yours with: {program} FILE ...",
    ]
    manifest = json.loads((tmp_path / "shipped/manifest.json").read_text(encoding="utf-8"))
    assert manifest["postprocessing"] == {
        "stage": None,
        "call": None,
        "metrics": [
            {"kind": "metric", "name": "agreement", "options": AGREEMENT},
            {"kind": "metric", "name": "sqnr", "options": {}},
            {"kind": "metric", "name": "headroom", "options": {"weight": 1.0}},
        ],
        "first": 0,
    }
    decode = manifest["preprocessing"]["decode"]
    assert decode["options"] == {"shape": [3, 16, 16], "gain": 1.0}
    values = np.random.default_rng(7).normal(size=(3, 16, 16)).astype(np.float32)
    values.tofile(tmp_path / "noise.f32")
    fed = run_alone(tmp_path, tmp_path / "shipped/example.py", "--save", "saved.npz", "noise.f32")
    assert (fed.returncode, fed.stderr) == (0, "")
    session = open_session(tmp_path / "shipped/model.onnx")
    (logits,) = session.run(["logits"], {"image": values[np.newaxis]})
    with np.load(tmp_path / "saved.npz") as saved:
        assert np.array_equal(saved["0/in/image"], values[np.newaxis])
        assert np.array_equal(saved["0/out/logits"], logits)


def test_scores_that_left_the_cache_leave_no_claim_about_labels(home: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(home / ".qpipe/cache", cache, symlinks=True)
    for path in cache.glob("measure/*/value/scoring.json"):
        path.write_text('{"first": 7}', encoding="utf-8")
    words = ["export", "--device", "local", "--scheme", "int8", "--cache", cache]
    command = [Path(sys.executable).parent / "qpipe", *words, "-o", tmp_path / "shipped"]
    subprocess.run(command, cwd=home, capture_output=True, check=True, timeout=500)
    manifest = json.loads((tmp_path / "shipped/manifest.json").read_text(encoding="utf-8"))
    assert manifest["postprocessing"]["first"] is None


def open_session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
