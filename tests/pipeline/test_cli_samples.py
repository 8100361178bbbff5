"""qpipe samples, with real recipes: what is written is what the network is fed, and what float made of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from shell import Shell

SIDE = 16

# scores of three classes: the mean of each colour
CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17]>
colours (float[1,3,16,16] image) => (float[1,3] scores)
{ means = GlobalAveragePool(image) scores = Flatten(means) }
"""

RECIPE = """
name: colours
variables: {mean: 127.5, std: 127.5, color_order: RGB}
samples:
  images:
    calibration: calibration
    evaluation: evaluation
    size: 16
    mean: "${mean}"
    std: "${std}"
    color_order: "${color_order}"
models: {colours: {onnx: {path: colours.onnx}}}
schemes: {int8: [symmetric]}
measure: [{accuracy: {metric: topk}}]
devices: [local]
pareto: {top1: max}
"""


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command in a folder with a recipe of twelve pictures."""
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(CLASSIFIER), "colours.onnx")
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    for part, shades in (
        ("calibration", (200, 180, 160, 140)),
        ("evaluation", (210, 190, 170, 150)),
    ):
        for channel, name in enumerate(("red", "green", "blue")):
            (Path(part) / name).mkdir(parents=True)
            for shade in shades:
                pixels = np.full((SIDE, SIDE, 3), 40, np.uint8)
                pixels[:, :, channel] = shade + np.arange(SIDE)
                Image.fromarray(pixels).save(Path(part) / name / f"{shade}.png")

    return Shell(monkeypatch, capsys)


def look(qpipe: Shell, *words: str) -> dict[str, Any]:
    return dict(json.loads(qpipe.run("samples", "recipe.yaml", "--json", *words)[0]))


def test_what_is_shown_is_what_is_fed_and_what_float_says_of_it(qpipe: Shell) -> None:
    found = look(qpipe, "--count", "6")
    folder = Path(found["folder"])
    assert folder == Path(".qpipe/samples/colours")
    (model,) = found["models"]
    assert model["classes"] == ["blue", "green", "red"]
    assert model["counts"] == {"calibration": 12, "evaluation": 12}
    assert [sample["part"] for sample in model["samples"]] == ["calibration"] * 6 + [
        "evaluation"
    ] * 6
    session = onnxruntime.InferenceSession("colours.onnx")
    for sample in model["samples"]:
        source = np.asarray(Image.open(Path(sample["part"]) / sample["id"]))
        assert np.array_equal(np.asarray(Image.open(folder / sample["files"][0])), source)
        tensor = (np.moveaxis(source, -1, 0)[None].astype(np.float32) - 127.5) / 127.5
        (scores,) = session.run(None, {"image": tensor})
        top = sample["prediction"]["top"]
        assert [each["label"] for each in top] == np.argsort(-scores[0], kind="stable").tolist()
        assert [each["score"] for each in top] == pytest.approx(sorted(scores[0], reverse=True))
        assert model["classes"][sample["target"]] == sample["id"].partition("/")[0]
    assert {sample["id"].partition("/")[0] for sample in model["samples"]} == {
        "red",
        "green",
        "blue",
    }, "evenly spread"
    assert (folder / "index.html").is_file()


def test_the_table_says_where_the_page_is_and_what_looks_wrong(qpipe: Shell) -> None:
    out, _ = qpipe.run("samples", "recipe.yaml", "--set", "mean=0", "--set", "std=1", "-o", "seen")
    lines = out.splitlines()
    assert lines[0].split() == [
        "input",
        "samples",
        "channel",
        "mean",
        "std",
        "min",
        "max",
        "at",
        "0",
        "or",
        "255",
    ]
    assert [line.split()[:3] for line in lines[1:7]] == [
        ["image", part, str(channel)]
        for part in ("calibration", "evaluation")
        for channel in range(3)
    ]
    # of 12, for blue and red are numbered the other way
    assert "float scores top1 0.333 on these 12 evaluation samples" in lines
    assert any(
        line.startswith("warning: image: mean ") and "looks unnormalised" in line for line in lines
    )
    assert lines[-1] == "look at: seen/index.html"


def test_a_wrong_order_of_colours_is_seen(qpipe: Shell) -> None:
    found = look(qpipe, "--set", "color_order=BGR")
    sample = found["models"][0]["samples"][0]
    source = np.asarray(Image.open(Path(sample["part"]) / sample["id"]))
    shown = np.asarray(Image.open(Path(found["folder"]) / sample["files"][0]))
    assert np.array_equal(shown, source[:, :, ::-1])
    assert found["models"][0]["right"] == {"labels": 12, "of": 12}


def test_samples_and_network_come_from_the_cache_the_second_time(qpipe: Shell) -> None:
    look(qpipe)
    _, err = qpipe.run("samples", "recipe.yaml")
    assert "samples: cached" in err
    assert "colours/import: cached" in err


def test_samples_that_do_not_fit_are_told_before_anything_is_written(qpipe: Shell) -> None:
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    Path("recipe.yaml").write_text(text.replace("size: 16", "size: 8"), encoding="utf-8")
    _, err = qpipe.run("samples", "recipe.yaml", status=2)
    line = "the samples give float32 [1, 3, 8, 8], input 'image' of the network takes float32 [1, 3, 16, 16]"
    assert line in err.splitlines()[-1]
    assert not Path(".qpipe/samples").exists()


def test_a_postprocess_that_breaks_is_told_on_the_page(qpipe: Shell) -> None:
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    Path("recipe.yaml").write_text(
        text.replace("{metric: topk}", "{postprocess: ssd_boxes}").replace("top1", "sqnr_db")
    )
    found = look(qpipe, "--count", "1")
    assert found["models"][0]["decoded"] is True
    assert {sample["reason"].partition(": ")[0] for sample in found["models"][0]["samples"]} == {
        "the postprocess failed"
    }


def test_labels_that_cannot_be_scored_are_told_beside_what_is_shown(qpipe: Shell) -> None:
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    text = text.replace("{metric: topk}", "{metric: {topk: {first: 1}}}")
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    model = look(qpipe)["models"][0]
    assert model["scores"] == []
    (warning,) = [line for line in model["warnings"] if "metric topk" in line]
    assert warning.startswith(
        "metric topk: label 2, but the network gives 3 scores; labels count from 0"
    )


def test_labels_numbered_by_a_list_are_compared_as_they_are(qpipe: Shell) -> None:
    with Path("labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        for label, name in enumerate(("red", "green", "blue")):
            writer.writerows((f"{name}/{shade}.png", label) for shade in (210, 190, 170, 150))
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    Path("recipe.yaml").write_text(
        text.replace("size: 16", "size: 16\n    evaluation_labels: labels.csv")
    )
    assert look(qpipe, "--count", "99")["models"][0]["right"] == {"labels": 12, "of": 12}
