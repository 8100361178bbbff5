"""A lab of two acting boards: how fast each is, and how fast each build, tests write into files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from qpipe.nightly.lab_file import read_lab
from qpipe.nightly.night import Night, NightReport
from qpipe.storage.nights import NightStore

PLUGIN = '''
"""Boards that act, and a stage that times what they act."""
from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

import qpipe
from qpipe_devices.null import NullDevice

OUTPUTS = Path("OUTPUTS")
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,4] x) => (float[1,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{ y = Mul(x, w) }
"""


def act(name: str) -> dict:
    return json.loads(Path(f"{name}.json").read_text())


class Acting(NullDevice):
    """A board as <name>.json says."""

    def capabilities(self):
        if act(self.name).get("dead"):
            raise qpipe.DeviceError(f"{self.name}: nobody answers", failure="unreachable")
        return super().capabilities()

    def infer(self, build, samples, count):
        if "canary_files" not in build.path:
            yield from super().infer(build, samples, count)
            return
        outputs = np.asarray(json.loads(OUTPUTS.read_text()), np.float32)
        yield {"y": outputs + act(self.name).get("wrong", 0)}

    def round(self, build, samples, *, warmup_s, values, budget_s, options=None):
        found = act(self.name)
        random = np.random.default_rng([found["night"], zlib.crc32(self.name.encode())])
        night = 1 + 0.004 * random.standard_normal()
        return qpipe.Round(
            list(found["speed"] * night * (1 + 0.001 * random.standard_normal(values))),
            load_ms=1, first_ms=1, warmups=1, peak_mb=1, runtime_mb=1,
        )


def acting(name: str) -> qpipe.Device:
    """A board that acts."""
    return Acting(name, "x86_64", 1.0)


def noise(*, count: int = 3) -> qpipe.Dataset:
    """Random numbers."""
    random = np.random.default_rng(0)
    part = lambda name: [qpipe.Sample(f"{name}{i}", {"x": random.random(4, np.float32)}) for i in range(count)]
    return qpipe.Dataset(part("c"), part("e"), {"x": qpipe.Preprocessing()})


def tiny() -> ir.Model:
    """Four products."""
    return ir.from_onnx_text(NETWORK)


def hold_on(name: str, file: str, progress) -> None:
    """Say that it has begun, and wait for as long as a file is there."""
    if file:
        Path(f"{name}.begun").touch()
    while file and Path(file).exists():
        progress(1, 2, "waits")
        time.sleep(0.05)


def snap(model: ir.Model, progress, *, bits: int = 8, hold: str = "", tally: str = "") -> ir.Model:
    """Quantize in name."""
    hold_on("snap", hold, progress)
    if tally:
        with open(tally, "a") as file:
            print(bits, os.environ.get("WORKER", "here"), file=file)
    model.metadata_props["bits"] = str(bits)
    return model


def pack(model: ir.Model, workdir: Path, *, slow: float = 1.0) -> qpipe.Build:
    """Compile into a build that is so slow."""
    ir.save(model, workdir / "model.onnx")
    outputs = [{"name": "y", "dtype": "float32", "shape": [1, 4]}]
    return qpipe.Build.write(workdir, {
        "runtime": "onnxruntime", "runner": "none.py", "model": "model.onnx", "options": {}, "outputs": outputs,
        "slow": slow,
    })


def paced(
    deployments: qpipe.Deployments, device: qpipe.Device, progress, *, rounds: int = 8, hold: str = "", meet: str = ""
) -> list[qpipe.Measurement]:
    """Time all builds in turn, once another board does so too."""
    hold_on(device.name, hold, progress)
    if meet:
        Path(f"{device.name}.here").touch()
    while meet and len(list(Path().glob("*.here"))) < 2:
        progress(1, 2, "waits")
        time.sleep(0.05)
    found = act(device.name)
    measured = []
    for each in deployments.present:
        random = np.random.default_rng([found["night"], zlib.crc32(each.name.encode())])
        base = 3 * found["speed"] * found.get("builds", 1) * each.build.manifest["slow"] * (1 + 0.004 * random.standard_normal())
        values = base * (1 + 0.002 * random.standard_normal((rounds, 5)))
        middle = float(np.median(values))
        measured.append(qpipe.Measurement(
            "latency_ms", middle, "ms", middle * 0.99, middle * 1.01, rounds, deployed=each.name,
            rounds=[list(each) for each in values],
        ))
    return measured


def right(deployed: qpipe.Deployed, device: qpipe.Device) -> list[qpipe.Measurement]:
    """Count what is right, sample by sample."""
    wrong = act(device.name).get("mistakes", 0)
    scores = [0.0] * wrong + [1.0] * (200 - wrong)
    value = float(np.mean(scores))
    return [qpipe.Measurement(
        "top1", value, "share", value - 0.01, value + 0.01, 200, "max", rounds=[scores], raw="samples",
    )]


@qpipe.hookimpl
def register_devices(register: qpipe.RegisterDevice) -> None:
    register(acting)


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", noise)
    register("import", tiny)
    register("quantize", snap)
    register("compile", pack)
    register("measure", paced, cached=False, gives=["latency_ms"])
    register("measure", right, cached=False, gives=["top1"])
'''
RECIPE = """
name: NAME
plugins: [acting.py]
variables: {slow: 1.0}
samples: noise
models: {tiny: tiny}
schemes: {float32: [], snapped: [snap], small: [{snap: {bits: 4}}]}
builds: {packed: {pack: {slow: "${slow}"}}}
measure: [paced, right]
devices: [NAME]
pareto: {latency_ms: min, top1: max}
"""
LAB = """
name: shelf
recipes: [left.yaml, right.yaml]
until: "06:00"
keep: {raw: 30d}
"""


@dataclass
class NightLab:
    """The lab in a folder, which is the working directory."""

    folder: Path
    now: datetime = datetime(2026, 11, 1, 1, 0, tzinfo=UTC)
    nights: int = 0
    tick: timedelta = timedelta()  # passes with each look at the clock
    ends_after: str = ""  # the time is over once this file is there
    said: list[str] = field(default_factory=list)

    def build(self) -> None:
        """Write its files."""
        from qpipe.nightly.canary import FILES

        plugin = PLUGIN.replace('OUTPUTS")', f'{FILES / "outputs.json"}")')
        (self.folder / "acting.py").write_text(plugin, encoding="utf-8")
        (self.folder / "devices.yaml").write_text("left: acting\nright: acting\n", encoding="utf-8")
        (self.folder / "shelf.yaml").write_text(LAB, encoding="utf-8")
        for name in ("left", "right"):
            text = RECIPE.replace("NAME", name)
            (self.folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text in one of its files."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def night(self, **boards: Any) -> NightReport:
        """Carry out the next night; boards are as said: `left={"speed": 2.0}`."""
        self.nights += 1
        self.now += timedelta(days=1)
        for name in ("left", "right"):
            self.write_board(name, **boards.get(name, {}))
        return self.go_on()

    def write_board(self, name: str, **acts: Any) -> None:
        """Say how a board acts."""
        acted = {"night": self.nights, "speed": 1.0, **acts}
        (self.folder / f"{name}.json").write_text(json.dumps(acted), encoding="utf-8")

    def look(self) -> datetime:
        """Return the time by the lab's clock."""
        self.now += self.tick
        if self.ends_after and (self.folder / self.ends_after).exists():
            self.now = self.now.astimezone().replace(hour=6, minute=1)
            self.ends_after = ""
        return self.now

    def go_on(self) -> NightReport:
        """Carry out a night, or what is left of it."""
        with NightStore(self.folder / ".qpipe/results.db") as store:
            night = Night(
                read_lab(self.folder / "shelf.yaml"),
                store,
                self.folder / ".qpipe/cache",
                clock=self.look,
                notify=self.said.append,
            )
            return night.run()
