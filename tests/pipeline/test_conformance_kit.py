"""The conformance kit finds what is wrong with a plugin: one fault each, and the check that has to tell it."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest

from models import RTN
from qpipe import testing
from qpipe.errors import RecipeError
from qpipe.stages import registry
from qpipe.stages.registry import Registry
from shell import Shell

FAULTY = '''
"""Stages with one fault each."""
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import qpipe
from qpipe.quant import qdq
from qpipe.quant.codebook import Codebook, uniform

counter = itertools.count()


def quantized(model, bits=8, scale=1.0, codebook=None):
    for weight in qdq.weights(model):
        made = qdq.symmetric(weight, bits=bits, axis=weight.channel_axis)
        made = qdq.QuantizedWeight(
            made.codes, made.scale * np.float32(scale), made.zero_point, made.axis, codebook or made.codebook
        )
        qdq.quantize_weight(model, weight, made)
    return model


def silent(model: ir.Model):
    return quantized(model)


def open_minded(model: ir.Model, *, tuning: Any = 1) -> ir.Model:
    """Take an option of any type, and one that takes everything."""
    return quantized(model)


def misfit(model: ir.Model, *, bits: int = "eight") -> ir.Model:
    """Have a default that is not of its type."""
    return quantized(model)


def moody(model: ir.Model) -> ir.Model:
    """Make another network each time."""
    return quantized(model, scale=1 + next(counter) / 100)


def unordered(model: ir.Model) -> ir.Model:
    """Go through a set of texts."""
    model.metadata_props["words"] = " ".join({f"word {number}" for number in range(100)})
    return quantized(model)


def renaming(model: ir.Model) -> ir.Model:
    """Rename the output."""
    model.graph.outputs[0].name = "other"
    return quantized(model)


def invalid(model: ir.Model) -> ir.Model:
    """Use an operator that does not exist."""
    model.graph.node(0).op_type = "Convolve"
    return model


def ruining(model: ir.Model) -> ir.Model:
    """Leave nothing of the network."""
    return quantized(model, scale=100.0)


def boasting(model: ir.Model) -> ir.Model:
    """Declare 4 bits, use 8."""
    return quantized(model, codebook=uniform(4))


def deaf(model: ir.Model, *, bits: int = 8) -> ir.Model:
    """Take bits, and quantize to 8."""
    return quantized(model)


def coarse(model: ir.Model) -> ir.Model:
    """Quantize to 4 bits, and declare 8."""
    for weight in qdq.weights(model):
        made = qdq.symmetric(weight, bits=3, axis=weight.channel_axis)
        qdq.quantize_weight(
            model, weight, qdq.QuantizedWeight(made.codes, made.scale, made.zero_point, made.axis, uniform(8))
        )
    return model


def needy(model: ir.Model, weather: str) -> ir.Model:
    """Need what there is not."""
    return quantized(model)


def breaking(model: ir.Model) -> ir.Model:
    """Raise an error of its own."""
    raise ZeroDivisionError("by zero")


def vandal(model: ir.Model, calibration_samples: qpipe.Samples) -> ir.Model:
    """Write into the samples."""
    (calibration_samples.folder / "inputs.bin").write_bytes(b"")
    return quantized(model)


def first_sample(*, k: int = 1) -> qpipe.Metric:
    """Score the first sample alone."""
    return qpipe.Metric("first", label_is_best, lambda values: float(values[0]))


def total() -> qpipe.Metric:
    """Add up, and call it a share."""
    return qpipe.Metric("total", label_is_best, lambda values: float(sum(values)), unit="share")


def upside_down() -> qpipe.Metric:
    """Count right answers, and call fewer better."""
    return qpipe.Metric("wrong_way", label_is_best, lambda values: float(np.mean(values)), better="min")


def nothing() -> qpipe.Metric:
    """Have no number for a single sample."""
    return qpipe.Metric("spread", label_is_best, lambda values: float(np.std(values) / (len(values) - 1 or np.nan)))


def greedy() -> qpipe.Metric:
    """Change what it is given."""
    def contribution(scores, label):
        scores["scores"][:] = 0
        return 1.0
    return qpipe.Metric("greedy", contribution, lambda values: float(np.mean(values)))


def label_is_best(scores, label):
    return float(np.argmax(scores["scores"]) == label)


def drawn(*, calibration_count: int = 3) -> qpipe.Dataset:
    """Draw other samples each time."""
    draw = np.random.default_rng(next(counter)).random
    samples = [qpipe.Sample(str(number), {"x": draw(4)}) for number in range(6)]
    return qpipe.Dataset(samples[:3], samples[3:], {"x": qpipe.Preprocessing()})


def files(*, evaluation: Path) -> qpipe.Dataset:
    """Decode files in another way than the dataset does."""
    samples = [qpipe.Sample(file.stem, {"x": np.fromfile(file, "u1")}) for file in sorted(evaluation.iterdir())]
    return qpipe.Dataset(samples[:1], samples[1:], {"x": qpipe.Preprocessing()}, decode=decode)


def decode(file):
    return {"x": np.fromfile(file, "u1") + 1}


def half_a_build(model: ir.Model, workdir: Path) -> qpipe.Build:
    """Name a runner that is not there."""
    ir.save(model, workdir / "model.onnx")
    return qpipe.Build.write(workdir, {"runtime": "mine", "runner": "run.py", "model": "model.onnx"})


def undeclared(deployed: qpipe.Deployed) -> list[qpipe.Measurement]:
    """Measure something else than it registered."""
    return [qpipe.Measurement("weight_kg", 1.0, "kg", deployed=deployed.name)]


def restless(deployed: qpipe.Deployed) -> list[qpipe.Measurement]:
    """Measure something else each time."""
    return [qpipe.Measurement("mood", float(next(counter)), "", deployed=deployed.name)]


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    for stage in (silent, open_minded, misfit, moody, unordered, renaming, invalid, ruining, boasting, deaf, coarse, needy,
                  breaking, vandal):
        register("quantize", stage)
    for metric in (first_sample, total, upside_down, nothing, greedy):
        register("metric", metric)
    register("samples", drawn)
    register("samples", files)
    register("compile", half_a_build)
    register("measure", undeclared, gives=("size",))
    register("measure", restless)
'''
FAULTS = [
    ("quantize", "silent", "options are documented", "it has no docstring; its first line is shown by 'qpipe plugins'"),
    ("quantize", "open_minded", "wrong options are refused",
     "option 'tuning' takes any value; annotate it with a narrower type"),
    ("quantize", "misfit", "options are documented", "quantize misfit: option 'bits' is 'eight'; give a whole number"),
    ("quantize", "moody", "result is deterministic",
     "two calls with the same inputs and options make different networks"),
    ("quantize", "unordered", "result is deterministic",
     "another process makes a different network; sort what is in sets"),
    ("quantize", "renaming", "inputs are unchanged",
     "quantize renaming changed the network: its outputs were scores, now are other; "
     "a stage must keep inputs and outputs"),
    ("quantize", "invalid", "network is valid", "the network is not valid ONNX: No Op registered for Convolve"),
    ("quantize", "ruining", "network runs", "SQNR of the outputs is"),
    ("quantize", "boasting", "declared bits are kept", "a code of 'stem_weight' is no level of uniform with 4 bits"),
    ("quantize", "deaf", "declared bits are kept", "with bits 4, a layer declares 8 bits"),
    ("quantize", "coarse", "error is bounded", "weights of 'stem_weight' differ from float by"),
    ("quantize", "needy", "chains with others", "it needs 'weather', which no step gives; there is original, "),
    ("quantize", "breaking", "network runs", "ZeroDivisionError: by zero"),
    ("quantize", "vandal", "inputs are unchanged", "it changes the files of its calibration_samples"),
    ("metric", "first_sample", "order does not matter", "the same samples in another order give 0.0 instead of 1.0"),
    ("metric", "total", "a share is within 0 and 1", "it gives 4, which is no share; leave the unit out, or divide"),
    ("metric", "upside_down", "better is better", "right answers score 1, wrong ones 0, but better is min"),
    ("metric", "nothing", "value is a number", "its reduction gives nan; it must be a finite number"),
    ("metric", "greedy", "contributions are of one sample",
     "it changes the prediction or the target that it is given"),
    ("samples", "drawn", "samples are deterministic", "two calls with the same options give different samples"),
    ("samples", "files", "decode gives what the dataset gives",
     "decode(b.bin) gives other inputs than sample 'b' has: x"),
    ("samples", "files", "decode runs without qpipe",
     "an export cannot take decode along: qpipe_file_faulty_"),
    ("compile", "half_a_build", "build is complete",
     "build.json names the runner 'run.py', which is not in the build"),
    ("measure", "undeclared", "measurements are declared", "it measures weight_kg, which `gives` does not list"),
    ("measure", "restless", "what is cached is deterministic",
     "it measures other values the second time; register cached=False"),
]  # fmt: skip


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """All plugins, with the stages that have faults."""
    file = tmp_path_factory.mktemp("faulty") / "faulty.py"
    file.write_text(FAULTY, encoding="utf-8")
    return registry.load([file])


@pytest.mark.parametrize(("kind", "name", "check", "reason"), FAULTS)
def test_a_fault_is_told_by_its_check(
    kind: str, name: str, check: str, reason: str, faulty: Registry, tmp_path: Path
) -> None:
    for letter in "abc":
        (tmp_path / f"{letter}.bin").write_bytes(letter.encode() * 4)
    options = {"evaluation": tmp_path} if name == "files" else {}
    found = {str(one): one for one in testing.checks(kind, name, options=options, plugins=faulty)}
    result = found[check].result()
    assert result.state == "failed"
    assert result.detail.startswith(reason)
    assert "\n" not in result.detail


def test_a_check_that_fails_is_an_assertion_and_one_that_says_nothing_a_skip(
    faulty: Registry,
) -> None:
    by_name = {str(one): one for one in testing.checks("metric", "upside_down", plugins=faulty)}
    with pytest.raises(AssertionError, match="but better is min"):
        by_name["better is better"]()
    with pytest.raises(unittest.SkipTest, match="its unit is ''"):
        by_name["a share is within 0 and 1"]()
    with pytest.raises(ZeroDivisionError):  # with the traceback of who wrote it
        next(
            one
            for one in testing.checks("quantize", "breaking", plugins=faulty)
            if str(one) == "network runs"
        )()


def test_a_stage_that_does_not_exist_is_told_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"kind .quantise. is not known; did you mean .quantize."):
        testing.checks("quantise", "symmetric")


# ---- the command


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_plugin_of_the_readme_passes(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "rtn.py").write_text(RTN, encoding="utf-8")
    results = shell.json("plugins check rtn.py")
    assert {result["state"] for result in results} == {"ok"}
    assert len(results) == 12


def test_a_failure_is_in_the_table_and_in_the_exit_status(shell: Shell, tmp_path: Path) -> None:
    text = FAULTY.replace("for metric in (first_sample,", "for metric in (upside_down,) or (")
    start = text.index("    for stage in (silent")
    end = text.index("    for metric in")
    (tmp_path / "faulty.py").write_text(text[:start] + text[end:], encoding="utf-8")
    out, _ = shell("plugins check faulty.py --kind metric", status=1)
    rows = [line for line in out.splitlines() if " failed " in line]
    assert [" ".join(row.split()) for row in rows] == [
        "metric upside_down better is better failed right answers score 1, wrong ones 0, but better is min"
    ]
    assert out.splitlines()[-1] == "1 failed, 9 ok, 1 skipped"


def test_a_file_that_does_not_load_fails(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_thing", encoding="utf-8")
    (result,) = shell.json("plugins check broken.py", status=1)
    assert (result["check"], result["state"]) == ("plugin loads", "failed")
    assert "No module named 'no_such_thing'" in result["detail"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("voc_mpa", "'voc_mpa' is no stage, plugin or distribution; did you mean 'voc_map'?"),
        (
            "voc_map --kind compile",
            "'voc_map' is no stage of kind compile; there is onnxruntime, openvino",
        ),
        ("voc_map --set iuo=1", "--set iuo: no such option; there is iou, points"),
        ("voc_map --set iou", "--set iou: '=' is missing; write --set NAME=VALUE"),
    ],
)
def test_a_wrong_request_is_one_line(words: str, message: str, shell: Shell) -> None:
    _, err = shell(f"plugins check {words}", status=2)
    assert err == f"qpipe: {message}\n"


def test_options_are_set_as_in_a_recipe(shell: Shell) -> None:
    results = shell.json("plugins check voc_map --set iou=0.75 --set points=11")
    details = {result["check"]: result["detail"] for result in results}
    assert details["value is a number"] == "voc_map75_11 1 share"
