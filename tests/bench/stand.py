"""What the benchmarks of measuring share: builds on the local device, timed by the latency stage itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import qpipe
from qpipe.types import Platform
from qpipe_devices import local
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.measure.latency import latency

DETECTOR = Path(__file__).parents[2] / "recipes/models/mobilenet_ssd.onnx"


def nothing(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


class Stand:
    """The local device with one picture of noise on it, and the builds that are put there."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.device: Any = local("local", folder=folder / "device")
        fed = onnx.load(model).graph.input[0]
        _, channels, height, width = (axis.dim_value for axis in fed.type.tensor_type.shape.dim)
        self.pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
        how = {fed.name: qpipe.Preprocessing(mean=(127.5,), std=(127.5,), layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", {fed.name: self.pixels})], how)
        self.samples = self.device.store(samples.folder, nothing)
        self.runs = 0

    def put(self, name: str, model: Path) -> qpipe.Deployed:
        """Compile a network, one thread, and bring it there."""
        folder = self.folder / name.replace("/", "-")
        folder.mkdir()
        build = onnxruntime(ir.load(model), Platform(), folder)
        return qpipe.Deployed(name, build, self.device.store(build.folder, nothing))

    def measure(self, *builds: qpipe.Deployed, **options: Any) -> Mapping[str, qpipe.Measurement]:
        """`latency_ms` of each build by its name."""
        self.runs += 1
        work = self.folder / f"run{self.runs}"
        work.mkdir()
        samples = {each.name: self.samples for each in builds}
        found = latency(qpipe.Deployments(builds), self.device, samples, work, nothing, **options)
        return {each.deployed: each for each in found if each.metric == "latency_ms"}


@contextmanager
def stand(model: Path = DETECTOR) -> Iterator[Stand]:
    """A stand in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Stand(Path(folder), model)
        try:
            yield made
        finally:
            made.device.close()
