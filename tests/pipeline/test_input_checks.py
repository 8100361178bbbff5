"""What plan and run find out before anything is quantized: scoring that does not fit, inputs that never vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from shell import Shell

# six scores of six numbers; `extra` is added to them
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,6] x, float[1,6] extra) => (float[1,6] y)
<float[6,6] w = {%s}>
{ rows = MatMul(x, w) sum = Add(rows, extra) y = Relu(sum) }
"""
RECIPE = """
name: case
samples: {npz: {calibration: calibration.npz, evaluation: evaluation.npz, target: label}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric]}
measure:
  - {accuracy: {metric: [topk]}}
  - size
devices: [local]
"""
POSTPROCESS = '''
"""A postprocess that makes boxes of scores."""

import itertools

import numpy as np
import qpipe

calls = itertools.count()


def corners(outputs, *, swapped: bool = False, moving: bool = False):
    """Return one box, or one with its corners swapped, or one elsewhere at each call."""
    box = [30, 30, 10, 10] if swapped else [10, 10, 30, 30]
    boxes = np.array([box], np.float32) + (100 * next(calls) if moving else 0)
    return {"boxes": boxes, "scores": np.ones(1), "labels": np.zeros(1, int)}


@qpipe.hookimpl
def register_stages(register):
    register("postprocess", corners)
'''


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command in a folder with a network and samples."""
    monkeypatch.chdir(tmp_path)
    weights = ", ".join(str(round(value, 3)) for value in np.random.default_rng(0).normal(size=36))
    onnx.save(onnx.parser.parse_model(NETWORK % weights), "net.onnx")
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    Path("corners.py").write_text(POSTPROCESS, encoding="utf-8")
    samples()
    return Shell(monkeypatch, capsys)


def samples(*, extra: float | None = None, label: int | np.ndarray = 5) -> None:
    """Samples whose input `extra` varies, or has one value."""
    random = np.random.default_rng(1)
    for part in ("calibration", "evaluation"):
        added = random.normal(size=(8, 6)) if extra is None else np.full((8, 6), extra)
        np.savez(
            f"{part}.npz",
            x=random.normal(size=(8, 6)).astype(np.float32),
            extra=added.astype(np.float32),
            label=np.full(8, label),
        )


def edit(old: str, new: str) -> None:
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    assert old in text
    Path("recipe.yaml").write_text(text.replace(old, new), encoding="utf-8")


def test_a_metric_that_fits_and_inputs_that_vary_are_not_spoken_of(qpipe: Shell) -> None:
    out, err = qpipe("plan recipe.yaml")
    assert "measure" in out
    assert "calibration samples" not in err


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("topk", "metric topk: label 6, but the network gives 6 scores; labels count from 0, so the last is 5 (sample "),
        ("coco_map", "metric coco_map: a prediction"),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_fit_the_outputs_fails_in_plan(
    metric: str, reason: str, qpipe: Shell
) -> None:
    samples(label=6)
    edit("topk", metric)
    _, err = qpipe("plan recipe.yaml", 2)
    assert err.splitlines()[-1].startswith(f"qpipe: recipe.yaml:7: {reason}")


def test_a_label_that_one_sample_alone_has_must_fit_the_outputs(qpipe: Shell) -> None:
    samples(label=np.array([5, 5, 5, 6, 5, 5, 5, 5]))  # tried are the samples 0, 2, 4 and 6
    _, err = qpipe("plan recipe.yaml", 2)
    assert "recipe.yaml:7: metric topk: label 6, but the network gives 6 scores" in err
    assert err.endswith("(sample 'evaluation-3')\n")


def test_a_metric_without_any_target_fails_in_plan(qpipe: Shell) -> None:
    edit(", target: label", "")
    for part in ("calibration", "evaluation"):
        arrays = np.load(f"{part}.npz")
        np.savez(f"{part}.npz", x=arrays["x"], extra=arrays["extra"])
    _, err = qpipe("plan recipe.yaml", 2)
    assert err.splitlines()[-1] == (
        "qpipe: recipe.yaml:7: metric top1: the samples have no targets; give the samples stage labels, "
        "or leave the metric out"
    )  # fmt: skip


@pytest.mark.parametrize("option", ["swapped", "moving"])
def test_float_that_does_not_agree_with_itself_stops_plan_and_run(
    option: str, qpipe: Shell
) -> None:
    edit("{metric: [topk]}", f"{{postprocess: {{corners: {{{option}: true}}}}}}")
    edit("name: case", "name: case\nplugins: [corners.py]")
    for command in ("plan", "run"):
        _, err = qpipe(f"{command} recipe.yaml", 2)
        assert err.splitlines()[-1] == (
            "qpipe: recipe.yaml:8: the agreement of float with itself is 0.0% on 4 samples, not 100 %: the "
            "postprocess does not fit the network's outputs; check that its options are those of the "
            "network, and that it is deterministic"
        )  # fmt: skip


@pytest.mark.parametrize("value", [0, 0.5])
def test_an_input_with_one_value_in_calibration_is_named(value: float, qpipe: Shell) -> None:
    samples(extra=value)
    _, err = qpipe("plan recipe.yaml")
    line = (
        f"samples: input 'extra' is {value:g} in all 8 calibration samples, so that nothing tells its range; "
        "calibrate on samples in which it varies"
    )  # fmt: skip
    assert line in err.splitlines()


def test_a_recipe_without_any_quantize_stage_fails_in_plan(qpipe: Shell) -> None:
    edit("{int8: [symmetric]}", "{float32: [], equalized: [equalize]}")
    assert qpipe("plan recipe.yaml", 2)[1] == (
        "qpipe: recipe.yaml:5: no scheme has a quantize stage, so that all are the float network; add one "
        "to a chain, such as symmetric\n"
    )  # fmt: skip
    edit("equalized: [equalize]", "int8: [equalize, symmetric]")
    _, told = qpipe("plan recipe.yaml")
    assert "no quantize stage" not in told


def test_a_scheme_without_a_quantize_stage_is_named(qpipe: Shell) -> None:
    edit("{int8: [symmetric]}", "{int8: [symmetric], equalized: [equalize]}")
    line = "scheme 'equalized' has no quantize stage, so its network stays float"
    assert line in qpipe("plan recipe.yaml")[1].splitlines()


# in the process of a step alone; a runtime does so where its optimizer meets what it does not expect
CRASHING = """
import multiprocessing
import os

import qpipe.engine.float_reference

if multiprocessing.parent_process() is not None:
    qpipe.engine.float_reference.open_session = lambda *words, **options: os.abort()
"""


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_network_that_ends_the_process_that_scores_it_is_one_line(
    qpipe: Shell, command: str
) -> None:
    Path("crashing.py").write_text(CRASHING, encoding="utf-8")
    recipe = RECIPE.replace("name: case\n", "name: case\nplugins: [./crashing.py]\n")
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    _, err = qpipe(f"{command} recipe.yaml", 2)
    assert "recipe.yaml:5: its process was ended by SIGABRT" in err
    assert "Traceback" not in err
