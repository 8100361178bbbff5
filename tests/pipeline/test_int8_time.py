"""Before anything is run in earnest, a few inferences tell whether 8 bits are faster than float here, and what takes the time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from networks import Net
from qpipe.engine import quick_int8
from qpipe.engine.quick_int8 import Int8Time
from shell import Shell

RECIPE = """
samples: {npz: {calibration: calibration.npz, evaluation: evaluation.npz}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric]}
measure: [{accuracy: {always: [sqnr]}}]
"""
TIME = re.compile(
    r"int8(-channel)? takes (\d+|\d*\.\d+) times as long as float on this machine"
    r"(: \d+ % \w+(, \d+ % \w+){0,2})?"
)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command line, in a folder with a network of two convolutions and samples of it."""
    net = Net()
    x = net.input("x", [1, 8, 12, 12])
    hidden = net.add("Conv", x, net.weight(16, 8, 3, 3, fan_in=72), pads=[1] * 4)
    y = net.add("Conv", net.add("Relu", hidden), net.weight(4, 16, 1, 1, fan_in=16))
    onnx.save(net.model(y), tmp_path / "net.onnx")
    random = np.random.default_rng(0)
    for part in ("calibration", "evaluation"):
        np.savez(tmp_path / f"{part}.npz", x=random.normal(size=(4, 8, 12, 12)).astype("f4"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_a_plan_tells_it_and_measures_it_once(shell: Shell) -> None:
    lines = [shell.run("plan", "recipe.yaml")[0].splitlines()[-1] for _ in range(2)]
    assert TIME.fullmatch(lines[0].removeprefix("net: ")), lines[0]
    assert lines[1] == lines[0]


@pytest.mark.parametrize(
    "changed",
    ["builds: {ort: {onnxruntime: {threads: 2}}}", "calibrate: {histogram: {samples: 2}}"],
)
def test_what_it_depends_on_makes_a_plan_measure_again(
    changed: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    measure = quick_int8.measure_int8_time
    monkeypatch.setattr(
        quick_int8, "measure_int8_time", lambda *given: measured.append(1) or measure(*given)
    )
    shell.run("plan", "recipe.yaml")
    shell.run("plan", "recipe.yaml")
    assert len(measured) == 1
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}{changed}\n")
    shell.run("plan", "recipe.yaml")
    assert len(measured) == 2


def test_a_plan_without_a_plain_scheme_tells_the_share_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("[symmetric]", "[onnxruntime_static]"))
    out, _ = shell.run("plan", "recipe.yaml")
    assert out.splitlines()[-1].startswith("net on integers: 100 % of the multiplications")


def test_a_new_recipe_comes_with_it(shell: Shell) -> None:
    out, _ = shell.run("new", "net.onnx", "--samples", "npz:.", "--out", "new.yaml")
    (line,) = [line for line in out.splitlines() if line.startswith("int8 time")]
    told = line.removeprefix("int8 time").strip()
    assert TIME.match(told), told


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.449, "int8 takes 0.45 times as long as float on this machine"),
        (
            2.06,
            "int8 takes 2.1 times as long as float on this machine: 50 % QLinearConv, "
            "30 % PRelu, 15 % QLinearMul",
        ),
    ],
)
def test_what_takes_the_time_is_told_where_it_is_slower(ratio: float, text: str) -> None:
    shares = {"PRelu": 0.3, "QLinearConv": 0.5, "Softmax": 0.05, "QLinearMul": 0.15}
    assert str(Int8Time("int8", ratio, shares)) == text
