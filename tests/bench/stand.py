"""What the benchmarks of measuring share: builds on the local device, timed by the latency stage itself; a network that
is as slow as it is asked to be; results that are kept as they come."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

import qpipe
from qpipe.types import Platform
from qpipe_devices import local
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.measure.latency import latency

DETECTOR = Path(__file__).parents[2] / "recipes/models/mobilenet_ssd.onnx"
CHANNELS, SIDE = 16, 16  # of each layer of a chain


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
        samples = qpipe.Samples.write(
            folder / "samples", [qpipe.Sample("0", {fed.name: self.pixels})], how
        )
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


def chain(path: Path, layers: int) -> Path:
    """A network of so many equal 3x3 convolutions with ReLU, one after the other, of one weight."""
    weight = np.random.default_rng(0).normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    nodes = []
    for number in range(layers):
        nodes.append(
            helper.make_node("Conv", [f"x{number}", "weight"], [f"y{number}"], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"]))
    shape = [1, CHANNELS, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n in (0, layers)]
    graph = helper.make_graph(
        nodes, "chain", [ends[0]], [ends[1]], [numpy_helper.from_array(weight, "weight")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def arguments(doc: str | None, count: int, *of: str) -> argparse.Namespace:
    """What a benchmark is told: `of` (one of these words, where there are any), `count`, and `resume`, a file."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if of:
        parser.add_argument("of", nargs="?", default=of[0], choices=of)
    parser.add_argument("count", nargs="?", type=int, default=count)
    parser.add_argument(
        "--resume", type=Path, help="keep results in this file, and go on with those it has"
    )
    return parser.parse_args()


def each(
    given: argparse.Namespace, take: Callable[[int], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What `take` gives of each number below `count`, with the `seconds` that took; a line each of the file to resume,
    from which the first ones are read where they are there."""
    kept = (
        given.resume.read_text(encoding="utf-8").splitlines()
        if given.resume and given.resume.exists()
        else []
    )
    found = [json.loads(line) for line in kept][: given.count]
    for number in range(len(found), given.count):
        started = time.monotonic()
        found.append({**take(number), "seconds": time.monotonic() - started})
        if given.resume:
            with given.resume.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found[-1]) + "\n")
    return found


@contextmanager
def stand(model: Path = DETECTOR) -> Iterator[Stand]:
    """A stand in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Stand(Path(folder), model)
        try:
            yield made
        finally:
            made.device.close()
