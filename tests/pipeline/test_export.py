"""The exported folder, used as somebody without qpipe would use it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from qpipe.compare.pareto import pareto_rows
from qpipe.errors import QpipeError
from qpipe.export.bundle import gather_facts, write_bundle
from qpipe.export.sample_handling import SampleHandling
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Build, Capabilities, Measurement, Preprocessing, Sample

NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 3, 4, 4] x) => (float[1, 2] y) <float[48, 2] w = {WEIGHTS}> {
  flat = Flatten(x)
  hidden = MatMul(flat, w)
  y = {LAST}(hidden)
}
"""
OPTIONS = {
    "onnxruntime": {
        "session": {"intra_op_num_threads": 1, "graph_optimization_level": "ORT_ENABLE_EXTENDED"},
        "config": {"session.intra_op.allow_spinning": "0"}, "providers": [["cpu", {}]], "fallback": "error",
    },
    "openvino": {"device": "CPU", "properties": {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}},
}  # fmt: skip
HANDLING = SampleHandling({"kind": "samples", "name": "drawings", "options": {}})
NOT_FED = "files cannot be fed as samples drawings did: its code was not kept; run the recipe again"
FACTS = {"recipe": {"name": "net"}, "measured": {"scheme": "int8"}}


def make_build(folder: Path, last: str = "Softmax", runtime: str = "onnxruntime") -> Build:
    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(size=96)
    text = "{" + ", ".join(f"{value:.5f}" for value in weights) + "}"
    model = onnx.parser.parse_model(NETWORK.replace("{WEIGHTS}", text).replace("{LAST}", last))
    onnx.save(model, folder / "net.onnx")
    (folder / "r.py").write_text("raise SystemExit", encoding="utf-8")
    options = OPTIONS.get(runtime, {})
    return Build.write(
        folder, {"runtime": runtime, "runner": "r.py", "model": "net.onnx", "options": options}
    )


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return make_build(tmp_path / "build")


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    rng = np.random.default_rng(1)
    rows = [
        Sample(f"s{i}", {"image": rng.integers(0, 256, (4, 4, 3), np.uint8)}, 0) for i in range(5)
    ]
    how = Preprocessing(mean=(127.0, 120.0, 110.0), std=(58.0, 57.0, 59.0), layout="NCHW")
    return Samples.write(tmp_path / "samples", rows, {"image": how}, ["cat", "dog"])


def run_example(folder: Path) -> subprocess.CompletedProcess[str]:
    # isolated, and elsewhere: nothing of qpipe is in reach but what was exported
    argv = [sys.executable, "-I", str(folder / "example.py")]
    return subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)


def test_the_example_runs_where_it_was_carried(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    carried = tmp_path / "board" / "net"
    shutil.copytree(tmp_path / "out", carried)
    done = run_example(carried)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [f"s{i} y [1, 2]: off by 0 % of its span" for i in range(3)]
    assert done.stdout.splitlines() == [*lines, NOT_FED]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_is_exported_needs_numpy_and_the_runtime_only(
    samples: Samples, tmp_path: Path, runtime: str
) -> None:
    write_bundle(
        tmp_path / "out", make_build(tmp_path / "build", runtime=runtime), samples, FACTS, HANDLING
    )
    lines = "\n".join(
        (tmp_path / "out" / name).read_text() for name in ("example.py", "load.py")
    ).splitlines()
    imports = {line.split()[1] for line in lines if line.startswith(("import", "from"))}
    assert imports - set(sys.stdlib_module_names) == {"numpy", runtime}


def test_a_build_for_openvino_is_exported_as_it_was_measured(
    samples: Samples, tmp_path: Path
) -> None:
    build = make_build(tmp_path / "build", runtime="openvino")
    manifest = write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    assert (manifest["runtime"], manifest["options"]) == ("openvino", OPTIONS["openvino"])
    done = run_example(tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("s0 y [1, 2]: off by 0 %")
    session = onnxruntime.InferenceSession(
        str(build.folder / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    with np.load(tmp_path / "out" / "golden.npz") as golden:
        expected = session.run(None, {"x": golden["0/in/x"]})[0]
        np.testing.assert_allclose(golden["0/out/y"], expected, rtol=1e-4)


def test_a_provider_that_is_missing_where_it_was_carried_is_said(
    samples: Samples, tmp_path: Path
) -> None:
    build = make_build(tmp_path / "build")
    options = {**OPTIONS["onnxruntime"], "providers": [["xnnpack", {}], ["cpu", {}]]}
    write_bundle(
        tmp_path / "out",
        Build.write(build.folder, {**build.manifest, "options": options}),
        samples,
        FACTS,
        HANDLING,
    )
    done = run_example(tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        0,
        "it was measured on xnnpack, which is missing here\n",
    )


def test_the_example_fails_for_another_model(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    other = make_build(tmp_path / "other", last="Neg")
    shutil.copyfile(other.folder / "net.onnx", tmp_path / "out" / "net.onnx")
    done = run_example(tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == "y of s0 is not what was exported\n"


FOUND = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 3, 4, 4] x) => (int64[4, found] y) {
  least = Constant <value = float {LEAST}> ()
  above = Greater(x, least)
  y = NonZero(above)
}
"""


@pytest.mark.parametrize("least", ["9.0", "0.5"], ids=["none found", "some found"])
def test_outputs_whose_size_differs_by_sample_are_compared(
    build: Build, samples: Samples, tmp_path: Path, least: str
) -> None:
    text = FOUND.replace("{LEAST}", "{" + least + "}")
    onnx.save(onnx.parser.parse_model(text), build.folder / "net.onnx")
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    done = run_example(tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("off by 0 % of its span") == 3
    other = text.replace(least, "0.0")
    onnx.save(onnx.parser.parse_model(other), tmp_path / "out" / "net.onnx")
    done = run_example(tmp_path / "out")
    assert (done.returncode, done.stderr) == (1, "y of s0 is not what was exported\n")


def test_golden_inputs_are_what_the_network_is_fed(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING, count=2)
    with np.load(tmp_path / "out" / "golden.npz") as golden:
        assert sorted(golden) == ["0/in/x", "0/out/y", "1/in/x", "1/out/y"]
        pixels = samples[1].inputs["image"].astype(np.float32)
        expected = (pixels - np.float32([127, 120, 110])) / np.float32([58, 57, 59])
        assert np.array_equal(golden["1/in/x"], expected.transpose(2, 0, 1)[np.newaxis])
        session = onnxruntime.InferenceSession(
            str(build.folder / "net.onnx"), providers=["CPUExecutionProvider"]
        )
        assert np.array_equal(golden["1/out/y"], session.run(None, {"x": golden["1/in/x"]})[0])


def test_the_manifest_says_all_that_is_needed(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    returned = write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(returned))
    assert manifest["inputs"] == [{"name": "x", "type": "tensor(float)", "shape": [1, 3, 4, 4]}]
    assert manifest["outputs"] == [{"name": "y", "type": "tensor(float)", "shape": [1, 2]}]
    assert manifest["classes"] == ["cat", "dog"]
    assert (manifest["runtime"], manifest["options"]) == ("onnxruntime", OPTIONS["onnxruntime"])
    assert manifest["preprocessing"]["inputs"]["image"]["mean"] == [127.0, 120.0, 110.0]
    assert (manifest["recipe"], manifest["measured"]) == (FACTS["recipe"], FACTS["measured"])


def test_every_file_is_listed_with_its_sha256(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = write_bundle(out, build, samples, FACTS, HANDLING)
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    del there["manifest.json"]
    assert manifest["files"] == there
    assert sorted(there) == ["example.py", "golden.npz", "load.py", "net.onnx"]


def test_an_export_may_be_written_again(build: Build, samples: Samples, tmp_path: Path) -> None:
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING, count=3)
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING, count=1)
    assert (
        len(json.loads((tmp_path / "out" / "manifest.json").read_text())["golden"]["samples"]) == 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "out", "samples"]


def test_an_empty_folder_is_taken(build: Build, samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    assert (tmp_path / "out" / "net.onnx").exists()


@pytest.mark.parametrize("exported_before", [False, True])
def test_what_is_not_ours_is_left_alone(
    build: Build, samples: Samples, tmp_path: Path, exported_before: bool
) -> None:
    out = tmp_path / "out"
    if exported_before:
        write_bundle(out, build, samples, FACTS, HANDLING)
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "thesis.txt").write_text("three years of work")
    with pytest.raises(
        QpipeError, match=r"out holds notes/thesis.txt, which no export put there; give an empty"
    ):
        write_bundle(out, build, samples, FACTS, HANDLING)
    assert (out / "notes" / "thesis.txt").read_text() == "three years of work"


def test_what_was_changed_since_its_export_is_left_alone(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    with (out / "example.py").open("a", encoding="utf-8") as file:
        file.write("# and how we use it\n")
    with pytest.raises(
        QpipeError, match=r"out holds example.py, which was changed since its export; give an empty"
    ):
        write_bundle(out, build, samples, FACTS, HANDLING)
    assert (out / "example.py").read_text(encoding="utf-8").endswith("# and how we use it\n")
    write_bundle(out, build, samples, FACTS, HANDLING, force=True)
    assert run_example(out).returncode == 0
    assert "how we use it" not in (out / "example.py").read_text(encoding="utf-8")


def test_by_force_it_is_written_beside_what_is_there(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    (out / "net.onnx").rename(out / "notes.txt")
    shutil.move(out / "manifest.json", tmp_path / "manifest.json")
    with pytest.raises(QpipeError, match="or --force to write into it"):
        write_bundle(out, build, samples, FACTS, HANDLING)
    write_bundle(out, build, samples, FACTS, HANDLING, force=True)
    assert run_example(out).returncode == 0
    assert (out / "notes.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "build",
        "manifest.json",
        "out",
        "samples",
    ]


def test_by_force_nothing_of_an_earlier_export_stays(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    write_bundle(out, build, samples, FACTS, HANDLING)
    kept.write_text("", encoding="utf-8")
    (out / "net.onnx").rename(out / "old.onnx")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] |= {
        "old.onnx": manifest["files"].pop("net.onnx"),
        "../kept": hashlib.sha256().hexdigest(),
    }
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (out / "thesis.txt").write_text("", encoding="utf-8")
    write_bundle(out, build, samples, FACTS, HANDLING, force=True)
    there = ["example.py", "golden.npz", "load.py", "manifest.json", "net.onnx", "thesis.txt"]
    assert sorted(path.name for path in out.iterdir()) == there
    assert kept.exists(), "a manifest names nothing outside of its folder"


@pytest.mark.parametrize("out", [".", "link"])
def test_where_one_stands_and_through_a_link(
    out: str, build: Build, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here" if out == "." else tmp_path)
    Path("link").symlink_to(tmp_path / "there") if out == "link" else None
    for _ in range(2):
        write_bundle(Path(out), build, samples, FACTS, HANDLING)
        assert run_example(Path(out).resolve()).returncode == 0
    assert Path(out).is_symlink() == (out == "link")


def test_somebody_elses_manifest_does_not_make_a_folder_ours(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"files": {"manifest.json": ""}}')
    with pytest.raises(QpipeError, match=r"holds manifest.json"):
        write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)


def put_dot_file(out: Path) -> None:
    (out / ".env").write_text("TOKEN=1", encoding="utf-8")


def put_empty_folder(out: Path) -> None:
    (out / "plans" / "later").mkdir(parents=True)


def put_link_to_folder(out: Path) -> None:
    (out.parent / "data").mkdir()
    (out / "data").symlink_to(out.parent / "data")


def put_broken_link(out: Path) -> None:
    (out / "data").symlink_to(out.parent / "gone")


def link_the_model(out: Path) -> None:
    """The same bytes, but a link to a file of the user's."""
    (out / "net.onnx").rename(out.parent / "mine.onnx")
    (out / "net.onnx").symlink_to(out.parent / "mine.onnx")


def put_pipe(out: Path) -> None:
    os.mkfifo(out / "pipe")


def put_into_code(out: Path) -> None:
    (out / "code").mkdir()
    (out / "code" / "mine.py").write_text("", encoding="utf-8")


def add_to_manifest(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    text = json.dumps({**manifest, "owner": "us"})
    (out / "manifest.json").write_text(text, encoding="utf-8")


USERS_OWN = [
    (put_dot_file, "holds .env, which no export put there"),
    (put_empty_folder, "holds plans/later/, which no export put there"),
    (put_link_to_folder, "holds data, which no export put there"),
    (put_broken_link, "holds data, which no export put there"),
    (put_pipe, "holds pipe, which no export put there"),
    (put_into_code, "holds code/mine.py, which no export put there"),
    (link_the_model, "holds net.onnx, which was changed since its export"),
    (add_to_manifest, "holds manifest.json, which was changed since its export"),
]


@pytest.mark.parametrize(
    ("put", "reason"), USERS_OWN, ids=lambda value: getattr(value, "__name__", "")
)
def test_whatever_a_user_put_there_keeps_the_folder_from_being_replaced(
    build: Build, samples: Samples, tmp_path: Path, put: Callable[[Path], None], reason: str
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    put(out)
    before = sorted(path.lstat().st_ino for path in tmp_path.rglob("*"))
    with pytest.raises(QpipeError, match=re.escape(reason)):
        write_bundle(out, build, samples, FACTS, HANDLING)
    assert sorted(path.lstat().st_ino for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("put", "reason"), USERS_OWN, ids=lambda value: getattr(value, "__name__", "")
)
def test_by_force_only_files_of_the_same_name_are_replaced(
    build: Build, samples: Samples, tmp_path: Path, put: Callable[[Path], None], reason: str
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    put(out)
    before = {path.lstat().st_ino for path in tmp_path.rglob("*")}
    replaced = {(out / name).lstat().st_ino for name in ("manifest.json", "net.onnx", "load.py")}
    replaced |= {(out / name).lstat().st_ino for name in ("example.py", "golden.npz")}
    write_bundle(out, build, samples, FACTS, HANDLING, force=True)
    assert before - {path.lstat().st_ino for path in tmp_path.rglob("*")} <= replaced
    assert run_example(out).returncode == 0
    assert not (out / "net.onnx").is_symlink()


class Intruder(Samples):
    """Samples during whose inference somebody puts a file into a folder."""

    target: Path

    def sequence(self, index: int, *words: Any) -> Any:
        self.target.parent.mkdir(exist_ok=True)
        self.target.write_text("three years of work", encoding="utf-8")
        return super().sequence(index, *words)


@pytest.mark.parametrize("exported_before", [False, True])
@pytest.mark.parametrize("from_within", [False, True])
def test_what_is_put_there_while_the_bundle_is_made_is_left_alone(
    build: Build,
    samples: Samples,
    tmp_path: Path,
    exported_before: bool,
    from_within: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    if exported_before:
        write_bundle(out, build, samples, FACTS, HANDLING)
    if from_within:
        out.mkdir(exist_ok=True)
        monkeypatch.chdir(out)
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    intruder = Intruder(samples.folder)
    intruder.target = out / "thesis.txt"
    with pytest.raises(QpipeError, match=r"out holds thesis.txt, which no export put there"):
        write_bundle(out, build, intruder, FACTS, HANDLING)
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "three years of work"
    assert {path.name for path in out.iterdir()} == {*names, "thesis.txt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "out", "samples"]


def test_a_file_put_in_its_place_while_the_bundle_is_made_is_left_alone(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    intruder = Intruder(samples.folder)
    intruder.target = tmp_path / "out"
    with pytest.raises(QpipeError, match=r"out was made meanwhile; give an empty folder"):
        write_bundle(tmp_path / "out", build, intruder, FACTS, HANDLING)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "three years of work"


def test_a_folder_that_somebody_works_in_stays_the_same_folder(
    build: Build, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    monkeypatch.chdir(out)
    before = out.stat().st_ino
    write_bundle(Path(), build, samples, FACTS, HANDLING, count=1)
    assert out.stat().st_ino == before
    assert run_example(out).stdout.count("off by") == 1


MOUNTED = """
import subprocess, sys
from pathlib import Path
from qpipe.export.bundle import write_bundle
from qpipe.samples.store import Samples
from qpipe.types import Build
from test_export import FACTS, HANDLING

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", folder / "out"], check=True)
for count in (2, 1):
    samples = Samples(folder / "samples")
    write_bundle(folder / "out", Build.read(folder / "build"), samples, FACTS, HANDLING, count=count)
print(*sorted(path.name for path in (folder / "out").iterdir()))
"""


def test_a_folder_that_is_a_mount_is_written_into(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    alone = ["unshare", "--mount"]  # the mount ends with the process
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [*alone, sys.executable, "-c", MOUNTED, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        "example.py",
        "golden.npz",
        "load.py",
        "manifest.json",
        "net.onnx",
    ]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("place", ["example.py", "net.onnx"])
def test_by_force_a_folder_in_the_place_of_a_file_is_one_line(
    build: Build, samples: Samples, tmp_path: Path, place: str
) -> None:
    out = tmp_path / "out"
    (out / place).mkdir(parents=True)
    (out / place / "thesis.txt").write_text("three years of work", encoding="utf-8")
    message = rf"^export: \S+/out holds the folder {place}; move it away$"
    with pytest.raises(QpipeError, match=message):
        write_bundle(out, build, samples, FACTS, HANDLING, force=True)
    assert [path.name for path in out.iterdir()] == [place]
    assert (out / place / "thesis.txt").exists()


def test_an_export_of_an_older_format_may_be_replaced(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    del manifest["digest"]
    text = json.dumps({**manifest, "qpipe_export": 2})
    (out / "manifest.json").write_text(text, encoding="utf-8")
    write_bundle(out, build, samples, FACTS, HANDLING)
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["qpipe_export"] == 3


def test_a_file_in_the_way_is_an_error(build: Build, samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(QpipeError, match="out is a file; give a folder"):
        write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(QpipeError, match="link is a link to nothing; give a folder"):
        write_bundle(tmp_path / "link", build, samples, FACTS, HANDLING)


def test_a_broken_build_is_not_handed_over_and_leaves_the_old_export(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(out, build, samples, FACTS, HANDLING)
    before = (out / "net.onnx").read_bytes()
    broken = make_build(tmp_path / "broken", last="Log")  # of negative numbers
    with pytest.raises(
        QpipeError, match=r"^export: y of sample 's0' is not a number; the build is broken$"
    ):
        write_bundle(out, broken, samples, FACTS, HANDLING)
    assert (out / "net.onnx").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "build", "out", "samples"]


def test_an_output_may_be_infinite_and_is_proved_where_it_is_not(
    samples: Samples, tmp_path: Path
) -> None:
    build = make_build(tmp_path / "build", last="Log")
    model = onnx.load(build.folder / "net.onnx")
    *_, last = model.graph.node
    relu = onnx.helper.make_node("Relu", [last.input[0]], ["positive"])
    last.input[0] = "positive"
    model.graph.node.insert(len(model.graph.node) - 1, relu)
    onnx.save(model, build.folder / "net.onnx")
    write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)
    golden = np.load(tmp_path / "out" / "golden.npz")
    assert any(np.isneginf(golden[name]).any() for name in golden.files)
    assert run_example(tmp_path / "out").stdout.count("off by 0 %") == 3


def test_a_build_for_another_runtime_is_refused(samples: Samples, tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", runtime="iree")
    expected = (
        r"^export: the build is for iree; only those for onnxruntime and openvino can be exported$"
    )
    with pytest.raises(QpipeError, match=expected):
        write_bundle(tmp_path / "out", build, samples, FACTS, HANDLING)


def test_the_facts_come_from_the_store(tmp_path: Path) -> None:
    with Store(tmp_path / "qpipe.db") as store:
        recipe = {"recipe_path": "a.yaml", "recipe_digest": "d", "recipe_text": "name: ssd\n"}
        run = store.new_run("ssd", **recipe, versions={"onnxruntime": "1.32.0"})
        place = {"model": "net", "scheme": "int8", "build": "ort", "device": "rpi4"}
        latency = Measurement("latency_ms", 5.0, "ms", 4.0, 6.0, 10)
        store.record_measurements(run, place, [latency], runtime="onnxruntime")
        facts: Any = gather_facts(store, pareto_rows(store, run)[0])
    assert facts["recipe"] == {"name": "ssd", "digest": "d", "text": "name: ssd\n"}
    assert (facts["run"]["id"], facts["run"]["versions"]) == (run, {"onnxruntime": "1.32.0"})
    assert (facts["measured"]["scheme"], facts["measured"]["device"]) == ("int8", "rpi4")
    assert facts["measured"]["metrics"]["latency_ms"] == {
        "value": 5.0,
        "unit": "ms",
        "low": 4.0,
        "high": 6.0,
        "n": 10,
    }
    assert facts["device"] is None, "an older qpipe did not keep it"


def test_the_device_is_told_as_it_was_when_it_was_measured(tmp_path: Path) -> None:
    board = Capabilities(
        arch="aarch64", system="Linux", cpu="Cortex-A72", cores=4, features=("asimd",), memory_mb=3792.0,
        python="3.11.2", numpy="1.24.2", runtimes={"onnxruntime": "1.23.0"}, fingerprint="f00d",
    )  # fmt: skip
    with Store(tmp_path / "qpipe.db") as store:
        run = store.new_run(
            "ssd", recipe_path="a.yaml", recipe_digest="d", recipe_text="", versions={}
        )
        place = {"model": "net", "scheme": "int8", "build": "ort", "device": "rpi4"}
        store.record_measurements(
            run, place, [Measurement("latency_ms", 5.0, "ms")], runtime="onnxruntime"
        )
        store.record_devices(run, {"rpi4": board})
        store.save_device("rpi4", "ssh", replace(board, runtimes={"onnxruntime": "1.24.0"}))
        facts: Any = gather_facts(store, pareto_rows(store, run)[0])
    assert (facts["device"]["cpu"], facts["device"]["runtimes"]) == (
        "Cortex-A72",
        {"onnxruntime": "1.23.0"},
    )
    json.dumps(facts)
