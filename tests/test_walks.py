"""Three strangers' first hours, as the pages of docs/how-to tell them: a network and data of their own, and the real command line.

A: a classifier and folders of pictures. B: a detector, pictures with COCO's boxes, a metric and a recipe of one's own.
C: a network of two inputs on sound, in npz.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import learned
from bare_python import run_alone
from models import RTN, plugins_of

pytestmark = [pytest.mark.xdist_group("walks"), pytest.mark.slow]
PAGES = Path(__file__).parents[1] / "docs" / "how-to"
(MISCOUNT,) = plugins_of((PAGES / "metric.md").read_text(encoding="utf-8"))
MY_NET = next(
    text
    for text in re.findall(
        r"^```yaml\n(.*?)^```$", (PAGES / "network.md").read_text(encoding="utf-8"), re.M | re.S
    )
    if text.startswith("name: ")
)
QUICK = "{latency: {rounds: 3, values: 10, warmup_s: 0.02}}"
Rows = dict[str, dict[str, Any]]


def qpipe(*words: str | Path, at: Path, status: int = 0) -> str:
    """What a command prints that must end with this status."""
    command = [Path(sys.executable).parent / "qpipe", *words]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=500)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout


def rows(home: Path) -> Rows:
    """What the newest run measured, by scheme."""
    return {row["scheme"]: row for row in json.loads(qpipe("pareto", "--json", at=home))["rows"]}


def stay(home: Path) -> None:
    """This machine keeps what is deployed to it in here."""
    (home / "devices.yaml").write_text(
        f"local: {{local: {{folder: {home / 'here'}}}}}\n", encoding="utf-8"
    )


def edit(file: Path, changes: Mapping[str, str]) -> None:
    """As a user in an editor; what is to be changed must stand there once."""
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} in {text}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def check_front(home: Path, printed: str, objectives: set[str]) -> Rows:
    """There is a front of several schemes with intervals, and a sentence that says which to ship, or what would tell."""
    found = rows(home)
    front = {scheme for scheme, row in found.items() if row["on_front"]}
    assert len(front) >= 2
    for scheme in front:
        for name in objectives - {"size_mb"}:
            measured = found[scheme]["metrics"][name]
            assert measured["low"] <= measured["value"] <= measured["high"]
            assert measured["low"] < measured["high"]
        assert found[scheme]["metrics"]["size_mb"]["value"] > 0
    advice = re.search(
        r"^\w+ on local: (?:ship ([\w-]+), the (?:fastest|smallest|only one) that (?:is shown to lose|loses) at most "
        r"|nothing is recommended: (?:no scheme is shown to lose at most |latency_ms of \S+ is in doubt: ))",
        printed,
        re.M,
    )
    assert advice is not None
    assert advice[1] is None or advice[1] in found
    return found


def check_export(home: Path, scheme: str) -> onnx.ModelProto:
    """The export runs by its own program, and by ONNX Runtime alone gives the golden outputs."""
    qpipe("export", "--device", "local", "--scheme", scheme, "-o", "shipped", at=home)
    shipped = home / "shipped"
    done = subprocess.run(
        [sys.executable, shipped / "example.py"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr + done.stdout
    golden = np.load(shipped / "golden.npz")
    numbers = {name.split("/")[0] for name in golden.files}
    for number in numbers:
        given, wanted = (
            {
                n.split("/", 2)[2]: golden[n]
                for n in golden.files
                if n.startswith(f"{number}/{way}/")
            }
            for way in ("in", "out")
        )
        (here,) = learned.outputs(shipped / "model.onnx", [given])
        for name, expected in wanted.items():
            # one rounding of the last quantized tensor, should threads or fusions differ
            np.testing.assert_allclose(here[name], expected, atol=0.02 * np.ptp(expected))
    assert numbers
    return onnx.load(shipped / "model.onnx")


def check_seen(home: Path) -> None:
    """The report shows pictures with what float and a scheme predict, those that differ most first."""
    (report,) = (home / ".qpipe" / "reports").glob("*.html")
    assert len(list((home / ".qpipe" / "cache" / "seen").iterdir())) == 1  # for the next report
    section = report.read_text(encoding="utf-8").partition('<h2 id="seen">')[2]
    section = section.partition("<h2 ")[0]
    assert section.count('<img src="data:image/png;base64,') == 8
    (scheme,) = re.findall(r"<h3>net on local: float and (\S+)/ort</h3>|and (\S+)</h3>", section)
    name = "".join(scheme)
    with closing(sqlite3.connect(home / ".qpipe" / "results.db")) as db:
        query = """SELECT "values".value FROM "values" JOIN measurements
            ON measurements.id = measurement WHERE scheme = ? AND metric = 'agreement'
            ORDER BY position"""
        agreement = [value for (value,) in db.execute(query, (name,))]
    files = sorted((home / "pictures" / "val").rglob("*.png"))
    differing = {files[index].stem for index, value in enumerate(agreement) if not value}
    shown = [Path(each).stem for each in re.findall(r"<figcaption><b>(.*?)</b>", section)]
    assert len(shown) == 4
    assert set(shown[: len(differing)]) <= differing or set(shown) <= differing


def feed_files(home: Path, files: list[Path]) -> list[dict[str, np.ndarray]]:
    """What the exported folder predicts for files, by its own program alone."""
    (home / "saved.npz").unlink(missing_ok=True)
    done = run_alone(home, home / "shipped/example.py", "--save", "saved.npz", *files)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(home / "saved.npz") as saved:
        return [
            {
                name.split("/", 2)[2]: saved[name]
                for name in saved.files
                if name.startswith(f"{number}/prediction/")
            }
            for number in range(len(files))
        ]


# ---- A: a classifier and pictures


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and folders train and val, with a folder a class."""
    home = tmp_path_factory.mktemp("pictures")
    onnx.save(learned.classifier(), home / "net.onnx")
    learned.pictures(home / "pictures" / "train", 48, seed=1)
    learned.pictures(home / "pictures" / "val", 120, seed=2)
    stay(home)
    return home


def right(home: Path, mean: float = 127.5, std: float = 127.5) -> float:
    """The share of evaluation pictures whose class the float network puts first, by ONNX Runtime and Pillow."""
    files = sorted((home / "pictures" / "val").rglob("*.png"))
    found = learned.outputs(
        home / "net.onnx", [{"image": learned.seen(Image.open(f), mean, std)} for f in files]
    )
    pairs = zip(found, files, strict=True)
    return float(
        np.mean(
            [learned.KINDS[int(out["logits"].argmax())] == file.parent.name for out, file in pairs]
        )
    )


def test_a_classifier_and_folders_of_pictures_come_to_a_front(with_pictures: Path) -> None:
    asked = ("--samples", "images:pictures", "--mean", "127.5", "--std", "127.5")
    said = qpipe("new", "net.onnx", *asked, at=with_pictures)
    assert "a classifier of 4 classes" in said
    # what a stranger then does: two bits to see it break, and less patience
    edit(
        with_pictures / "recipe.yaml",
        {"- latency\n": f"- {QUICK}\n", "builds:\n": "  int2: [{symmetric: {bits: 2}}]\nbuilds:\n"},
    )
    looked = qpipe("samples", "recipe.yaml", at=with_pictures)
    assert "float scores top1 0.9" in looked
    printed = qpipe(
        "run", "recipe.yaml", "--only", "int8-channel", "--only", "int2", at=with_pictures
    )
    found = check_front(with_pictures, printed, {"latency_ms", "top1"})
    assert found["float32"]["metrics"]["top1"]["value"] == pytest.approx(right(with_pictures))
    assert right(with_pictures) > 0.85
    assert (
        found["int8-channel"]["metrics"]["top1"]["value"]
        > found["int2"]["metrics"]["top1"]["value"]
    )
    check_seen(with_pictures)
    check_export(with_pictures, "int8-channel")
    files = sorted((with_pictures / "pictures" / "val").rglob("*.png"))
    predicted = [
        learned.KINDS[int(prediction["logits"].argmax())]
        for prediction in feed_files(with_pictures, files)
    ]
    right_answers = [name == file.parent.name for name, file in zip(predicted, files, strict=True)]
    measured = found["int8-channel"]["metrics"]["top1"]["value"]
    assert np.mean(right_answers) == pytest.approx(measured), "what was scored on the device"


@pytest.fixture
def my_net(with_pictures: Path, tmp_path: Path) -> Path:
    """The whole recipe of the page on networks and a plugin, letter by letter but for size, latency and what float scores."""
    (tmp_path / "images").mkdir()
    for name, part in (("few", "train"), ("many", "val")):
        (tmp_path / "images" / name).symlink_to(with_pictures / "pictures" / part)
    (tmp_path / "net.onnx").write_bytes((with_pictures / "net.onnx").read_bytes())
    (tmp_path / "recipe.yaml").write_text(MY_NET + "plugins: [./rtn.py]\n", encoding="utf-8")
    (tmp_path / "rtn.py").write_text(RTN, encoding="utf-8")
    changes = {
        "size: 224": "size: 32",
        "measure: [latency,": f"measure: [{QUICK},",
        "value: 0.72": f"value: {right(with_pictures)}",
        "schemes:": "schemes:\n  mine: [rtn, activations]\n#",
    }
    edit(tmp_path / "recipe.yaml", changes)
    stay(tmp_path)
    return tmp_path


def test_the_recipe_and_the_plugin_of_the_pages_run(my_net: Path) -> None:
    # compensated it would be the only one on the front: small, and as exact
    edit(my_net / "recipe.yaml", {"levels: apot}}, compensate]": "levels: pot}}]"})
    printed = qpipe("run", "recipe.yaml", "--only", "mine", "--only", "log4", at=my_net)
    found = check_front(my_net, printed, {"latency_ms", "agreement"})
    assert (
        found["mine"]["metrics"]["size_mb"]["value"]
        < found["float32"]["metrics"]["size_mb"]["value"] / 2
    )
    assert found["mine"]["metrics"]["agreement"]["value"] > 0.9


def test_pictures_scaled_otherwise_than_expected_stop_a_run_before_anything_is_quantized(
    my_net: Path,
) -> None:
    edit(my_net / "recipe.yaml", {"mean: 127.5, std: 127.5": "mean: 0, std: 1"})
    printed = qpipe("run", "recipe.yaml", at=my_net, status=1)
    assert re.search(
        r"failed: my_net/expect: .*top1 of the float network should be .*qpipe samples", printed
    )
    states = {
        step["kind"]: step["state"]
        for step in json.loads(qpipe("show", "--json", at=my_net))["steps"]
    }
    assert states["quantize"] == states["deploy"] == "skipped"


# ---- B: a detector, its boxes, a metric and a recipe of one's own

DETECTOR = f"""
name: shapes
samples: {{coco: {{images: val2017, annotations: val2017.json, calibration: train2017, size: 64, mean: 0, std: 255}}}}
models:
  shapes: {{onnx: {{path: detector.onnx}}}}
schemes:
  int8-channel: [{{symmetric: {{granularity: channel}}}}]
  int3: [{{symmetric: {{bits: 3}}}}]
measure:
  - {QUICK}
  - {{accuracy: {{postprocess: {{yolo_boxes: {{version: v8}}}}, metric: [coco_map, miscount]}}}}
  - size
plugins: [./my_metric.py]
pareto: {{miscount: min, map50: max, size_mb: min}}
"""


@pytest.fixture(scope="module")
def with_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, annotated pictures, the metric of its page and a recipe; it has run, and printed into run.txt."""
    home = tmp_path_factory.mktemp("boxes")
    onnx.save(learned.detector(), home / "detector.onnx")
    learned.crowds(home / "train2017", 32, seed=1)
    learned.crowds(home / "val2017", 80, seed=2)
    (home / "my_metric.py").write_text(MISCOUNT, encoding="utf-8")
    (home / "recipe.yaml").write_text(DETECTOR, encoding="utf-8")
    stay(home)
    (home / "run.txt").write_text(qpipe("run", "recipe.yaml", at=home), encoding="utf-8")
    return home


def test_a_detector_and_boxes_come_to_a_front_by_a_metric_of_ones_own(with_boxes: Path) -> None:
    printed = (with_boxes / "run.txt").read_text(encoding="utf-8")
    found = check_front(with_boxes, printed, {"map50", "miscount", "agreement"})
    assert found["float32"]["metrics"]["map50"]["value"] > 0.6
    assert (
        found["int8-channel"]["metrics"]["map50"]["value"]
        > found["int3"]["metrics"]["map50"]["value"]
    )
    check_export(with_boxes, "int8-channel")


def test_the_metric_of_ones_own_is_that_of_the_boxes_that_numpy_counts(with_boxes: Path) -> None:
    about = json.loads((with_boxes / "val2017.json").read_text(encoding="utf-8"))
    off = []
    for image in about["images"]:
        fed = learned.seen(Image.open(with_boxes / "val2017" / image["file_name"]), 0, 255)
        (out,) = learned.outputs(with_boxes / "detector.onnx", [{"images": fed}])
        annotated = sum(each["image_id"] == image["id"] for each in about["annotations"])
        off.append(abs(learned.kept(out["output0"][0], 0.5, 0.65) - annotated))
    measured = rows(with_boxes)["float32"]["metrics"]["miscount"]
    assert measured["n"] == len(off)
    assert measured["value"] == pytest.approx(np.mean(off))


def test_what_must_be_kept_to_decides_what_to_ship(with_boxes: Path) -> None:
    sizes = {scheme: row["metrics"]["size_mb"]["value"] for scheme, row in rows(with_boxes).items()}
    printed = qpipe("pareto", "--max", f"size_mb={sizes['int8-channel'] * 0.9}", at=with_boxes)
    # int3 is small enough, and finds hardly anything
    assert "nothing is recommended: no scheme is shown to lose at most 1 " in printed
    assert "; int3 loses " in printed
    printed = qpipe(
        "pareto", "--knee", "--max", f"size_mb={sizes['int8-channel'] * 0.9}", at=with_boxes
    )
    assert "ship int3, the best with size_mb <= " in printed
    assert re.search(r"^run [0-9a-f-]+ of shapes: done$", printed, re.M)


@pytest.mark.lab
def test_boxes_that_nothing_reads_from_the_outputs_are_not_left_out_in_silence(
    with_boxes: Path,
) -> None:
    said = qpipe("new", "detector.onnx", "--samples", "coco:.", "-o", "new.yaml", at=with_boxes)
    assert "only sqnr_db is scored: boxes are scored once a postprocess reads them" in said
    assert "# CHECK: no more than this is scored: boxes " in (with_boxes / "new.yaml").read_text(
        encoding="utf-8"
    )


# ---- C: two inputs, sound


@pytest.fixture(scope="module")
def with_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two inputs, and npz files with an array for each and the words."""
    home = tmp_path_factory.mktemp("sounds")
    onnx.save(learned.listener(), home / "net.onnx")
    (home / "sounds").mkdir()
    np.savez(home / "sounds" / "train.npz", **learned.sounds(48, seed=1))
    np.savez(home / "sounds" / "val.npz", **learned.sounds(150, seed=2))
    stay(home)
    return home


@pytest.mark.lab
def test_a_network_of_two_inputs_and_arrays_of_sound_come_to_a_front(with_sounds: Path) -> None:
    qpipe("new", "net.onnx", "--samples", "npz:sounds", at=with_sounds)
    assert "\n    target: word\n" in (with_sounds / "recipe.yaml").read_text(encoding="utf-8")
    edit(
        with_sounds / "recipe.yaml",
        {"- latency\n": f"- {QUICK}\n", "builds:\n": "  int2: [{symmetric: {bits: 2}}]\nbuilds:\n"},
    )
    printed = qpipe(
        "run", "recipe.yaml", "--only", "int8-channel", "--only", "int2", at=with_sounds
    )
    found = check_front(with_sounds, printed, {"latency_ms", "top1"})
    arrays = learned.sounds(150, seed=2)
    heard = learned.outputs(with_sounds / "net.onnx", learned.heard(arrays))
    share = np.mean(
        [out["logits"].argmax() == word for out, word in zip(heard, arrays["word"], strict=True)]
    )
    assert share > 0.9
    assert found["float32"]["metrics"]["top1"]["value"] == pytest.approx(share)
    shipped = check_export(with_sounds, "int8-channel")
    assert [each.name for each in shipped.graph.input] == ["spectrogram", "speaker"]
