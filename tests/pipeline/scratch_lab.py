"""A recipe of small stages in a folder of its own, for tests of the engine: a plugin file, two null devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from shell import Shell
from waiting import interruptible

PLUGIN = '''
"""Small stages."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Literal, Sequence

import numpy as np
import onnx_ir as ir

import qpipe

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,4] x) => (float[1,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{ y = Mul(x, w) }
"""


def noise(
    *, calibration_count: int = 2, evaluation_count: int = 3, data: Path | None = None, sources: list[Path] = []
) -> qpipe.Dataset:
    """Random numbers."""
    random = np.random.default_rng(0)

    def draw(part: str, count: int) -> list[qpipe.Sample]:
        return [qpipe.Sample(f"{part}{i}", {"x": random.random(4, np.float32)}) for i in range(count)]

    return qpipe.Dataset(draw("c", calibration_count), draw("e", evaluation_count), {"x": qpipe.Preprocessing()})


def tiny(*, path: Path | None = None, scale: float = 1.0) -> ir.Model:
    """Four products."""
    return ir.from_onnx_text(NETWORK)


def flip(model: ir.Model) -> ir.Model:
    """A transform."""
    model.metadata_props["flip"] = "1"
    return model


def turn(model: ir.Model, *, degrees: float = 90) -> ir.Model:
    """Another transform."""
    return model


def snap(
    model: ir.Model,
    *,
    bits: int = 8,
    mode: Literal["near", "down"] = "near",
    exclude: Sequence[str] = (),
    say: str = "",
    fail: str = "",
    broken: bool = False,
    kill: bool = False,
    mark: Path | None = None,
    hold: Path | None = None,
) -> ir.Model:
    """Quantize, or do what a test wants: write `mark`, then wait for as long as `hold` is there."""
    if say:
        print(say)
    if mark:
        aside = mark.with_suffix(".aside")
        aside.write_text(str(os.getpid()))
        aside.replace(mark)
    while hold and hold.exists():
        time.sleep(0.02)
    if fail:
        raise qpipe.StageError(fail)
    if broken:
        raise ZeroDivisionError("so it goes")
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    model.metadata_props["bits"] = str(bits)
    return model


def ranged(model: ir.Model, statistics: Any, *, percentile: float = 99.9) -> ir.Model:
    """Quantize by statistics."""
    model.metadata_props["ranged"] = str(percentile)
    return model


def aimed(model: ir.Model, target: qpipe.Target) -> ir.Model:
    """Quantize for a target."""
    model.metadata_props["saturates"] = str(target.saturates)
    return model


def needy(model: ir.Model, weather: Any) -> ir.Model:
    """Needs what nothing gives."""
    return model


def pack(model: ir.Model, workdir: Path, *, threads: int = 1) -> qpipe.Build:
    """Compile by copying."""
    ir.save(model, workdir / "model.onnx")
    outputs = [{"name": "y", "dtype": "float32", "shape": [1, 4]}]
    manifest = {"runtime": "onnxruntime", "runner": "none.py", "model": "model.onnx", "options": {}, "outputs": outputs}
    return qpipe.Build.write(workdir, manifest)


def weight(deployed: qpipe.Deployed, *, factor: float = 1.0) -> list[qpipe.Measurement]:
    """A measurement that holds: bytes."""
    return [qpipe.Measurement("weight", deployed.stored.size * factor, "B", deployed=deployed.name)]


def score(
    deployed: qpipe.Deployed,
    *,
    postprocess: Annotated[Any, qpipe.StageOption("postprocess")] = None,
    metric: Annotated[list[Any], qpipe.StageOption("metric")] = ("closeness",),
) -> list[qpipe.Measurement]:
    """A measurement with stages for options."""
    return [qpipe.Measurement(each.name, 1.0, "") for each in metric]


def closeness(*, power: float = 2.0, table: Path | None = None) -> qpipe.Metric:
    """A metric."""
    return qpipe.Metric("closeness", lambda a, b: 0.0, sum)


def pace(deployments: qpipe.Deployments, device: qpipe.Device, *, value: float = 5.0) -> list[qpipe.Measurement]:
    """A measurement of the moment, over all that was deployed; says who is missing."""
    found = {"latency_ms": value, "absent": float(len(deployments.missing))}
    return [qpipe.Measurement(n, v, "", deployed=each.name) for each in deployments.present for n, v in found.items()]


def partly(deployments: qpipe.Deployments) -> list[qpipe.Measurement]:
    """A measurement that gets through with the first alone."""
    first = qpipe.Measurement("part", 1.0, "", deployed=deployments.present[0].name)
    raise qpipe.IncompleteError("only the first was measured", [first])


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", noise)
    register("import", tiny)
    for stage in (flip, turn):
        register("transform", stage)
    for stage in (snap, ranged, aimed, needy):
        register("quantize", stage)
    register("compile", pack)
    register("metric", closeness)
    register("measure", weight)
    register("measure", score)
    register("measure", partly)
    register("measure", pace, cached=False)
'''

RECIPE = """
name: lab
plugins: [stages.py]
variables: {bits: 8, evaluation_count: 3, factor: 1}
samples: {noise: {evaluation_count: "${evaluation_count}"}}
models: {tiny: tiny}
schemes:
  float32: []
  snapped: [{snap: {bits: "${bits}"}}]
builds: {packed: pack}
measure: [pace, {weight: {factor: "${factor}"}}]
devices: [one]
pareto: {latency_ms: min, weight: min}
"""

DEVICES = "one: 'null'\ntwo: 'null'\narm: {'null': {arch: aarch64}}\n"


@dataclass(frozen=True)
class Lab:
    """A folder with stages.py, recipe.yaml and devices.yaml, and the real command in it."""

    folder: Path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """The command, in a session of its own, as a terminal would start it."""
        with interruptible():
            return subprocess.Popen(
                [Path(sys.executable).with_name("qpipe"), *words], cwd=self.folder, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
            )  # fmt: skip


def lab(folder: Path) -> Lab:
    """A new one."""
    made = Lab(folder)
    made.write("stages.py", PLUGIN)
    made.write("recipe.yaml", RECIPE)
    made.write("devices.yaml", DEVICES)
    return made


class LabShell(Shell):
    """The command in this process, in a lab."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        super().__init__(monkeypatch, capsys)
        monkeypatch.chdir(folder)
        self.lab = lab(folder)

    def states(self) -> Mapping[str, str]:
        """How the steps of the newest run ended."""
        return {step["step"]: step["state"] for step in self.json("show")["steps"]}
