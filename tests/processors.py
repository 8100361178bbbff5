"""The two kinds of processor that sum products of 8-bit codes, on whatever machine the tests run.

An exact processor sums products of uint8 and int8 in 32 bits; a saturating one adds two of them in
16 bits first, so that two weights may not both be large there. x86 without VNNI saturates: in ONNX Runtime on
Linux where it has AVX2, in OpenVINO where it has SSE4.1.

In process, networks for a saturating processor give the same anywhere, and those for an exact one
do so on a machine that saturates as well, by an entry of ONNX Runtime that changes its kernels (see
`session`); OpenVINO has none. Kernels that are not this machine's run emulated: QEMU 7.2 has the
models Haswell (AVX2: saturates) and Nehalem (SSE4.2: is exact), but emulates neither AVX-512 nor
VNNI, so that only a machine that has VNNI tests its kernels.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qpipe.engine.targets import target_of
from qpipe.types import Array, Capabilities, Target
from qpipe_devices.agent import machine

Feeds = Mapping[str, Array]
CPU_PROVIDER = ["CPUExecutionProvider"]
# int8 weights become uint8, whose products with uint8 x86 sums in 32 bits; also where it has VNNI
EXACT_ENTRY = ("session.x64quantprecision", "1")


@dataclass(frozen=True)
class Arithmetic:
    """How a kind of processor sums: the target of networks for it, and a CPU model of QEMU."""

    name: str
    target: Target
    emulated_cpu: str

    def __str__(self) -> str:
        return self.name


EXACT = Arithmetic("exact", Target(), "Nehalem")
SATURATING = Arithmetic("saturating", Target(saturates=True), "Haswell-noTSX")
KINDS = (EXACT, SATURATING)
both_kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


@cache
def machine_capabilities() -> Capabilities:
    """What the device `local` says of this machine when it is checked."""
    fields = machine.capabilities(Path("/"))
    return Capabilities(**{**fields, "features": tuple(fields["features"])})


def machine_target() -> Target:
    """What quantization must respect on this machine, so for the device `local` and its agent."""
    return target_of(machine_capabilities())


def machine_kind() -> Arithmetic:
    """The kind of processor that this machine has."""
    return SATURATING if machine_target().saturates else EXACT


# whose kernels are not this machine's, so that they run emulated
other_kind = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not machine_kind()], ids=str
)


# ---- in process


def session(
    model: onnx.ModelProto,
    kind: Arithmetic,
    *,
    optimize: bool = True,
    optimized_path: Path | None = None,
    entries: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """A session, on this machine, of a network that is quantized for that kind of processor.

    One for an exact processor is summed exactly, also where this machine saturates.
    `optimized_path` gets the graph that really runs; `entries` are configuration entries.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if optimize and kind is EXACT and machine_target().saturates:
        options.add_session_config_entry(*EXACT_ENTRY)
        model = with_unshared_codes(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, CPU_PROVIDER)


def with_unshared_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two nodes read one int8 constant, or one DequantizeLinear of it.

    ONNX Runtime 1.32 with EXACT_ENTRY refuses a network in which two layers share a weight or its
    zero point: it makes a uint8 one for each under one name ("Attempt to replace the existing
    tensor").
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    int8 = onnx.TensorProto.INT8
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == int8}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            reads = _reads(graph.node, node.output[0])
            nodes += [_copy_for(node, number, *read) for number, read in enumerate(reads[1:])]
    for name, tensor in constants.items():
        for number, (node, place) in enumerate(_reads(nodes, name)[1:]):
            unshared = graph.initializer.add()
            unshared.CopyFrom(tensor)
            unshared.name = node.input[place] = f"{name}_{number}_unshared"
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _reads(nodes: Iterable[onnx.NodeProto], name: str) -> list[tuple[onnx.NodeProto, int]]:
    """The nodes that read a tensor, and as which of their inputs."""
    inputs = [(node, place) for node in nodes for place in range(len(node.input))]
    return [(node, place) for node, place in inputs if node.input[place] == name]


def _copy_for(
    dequantizer: onnx.NodeProto,
    number: int,
    reader: onnx.NodeProto,
    place: int,
) -> onnx.NodeProto:
    """Another node that gives the same, which this input of the reader then reads."""
    copy = onnx.NodeProto()
    copy.CopyFrom(dequantizer)
    copy.name = ""
    copy.output[0] = reader.input[place] = f"{dequantizer.output[0]}_{number}_unshared"
    return copy


# ---- emulated


QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
# what is emulated is the Python of the tests, with all that is installed beside it
CAN_EMULATE = sys.platform.startswith("linux") and platform.machine() == "x86_64" and bool(QEMU)
NEEDS = "needs Linux on x86-64, and qemu-user: apt-get install qemu-user"
emulated = pytest.mark.skipif(not CAN_EMULATE, reason=NEEDS)
RUN = """
import json, pathlib, sys
import numpy, onnxruntime
folder = pathlib.Path(sys.argv[1])
for number, entries in enumerate(json.loads((folder / "entries.json").read_text())):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    path = folder / f"{number}.onnx"
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feeds = {}
    with numpy.load(folder / f"{number}.npz") as stored:
        for key, array in stored.items():
            index, _, name = key.partition("/")
            feeds.setdefault(index, {})[name] = array
    outputs = {}
    for index, one in feeds.items():
        for name, array in zip(names, session.run(None, one)):
            outputs[f"{index}/{name}"] = array
    numpy.savez(folder / f"{number}_outputs.npz", **outputs)
"""


@dataclass(frozen=True, eq=False)
class Job:
    """A network, what it is fed, and configuration entries of its session."""

    model: onnx.ModelProto
    feeds: Sequence[Feeds]
    entries: Mapping[str, str] = field(default_factory=dict)


def emulated_outputs(cpu: str, jobs: Sequence[Job], folder: Path) -> list[list[dict[str, Array]]]:
    """What ONNX Runtime's kernels give on a CPU model: by job and feed, the outputs by name.

    All jobs run in one process, as some seconds pass until it has started.
    """
    for number, job in enumerate(jobs):
        onnx.save(job.model, folder / f"{number}.onnx")
        arrays: dict[str, Array] = {}
        for index, feed in enumerate(job.feeds):
            arrays |= {f"{index}/{name}": array for name, array in feed.items()}
        np.savez(folder / f"{number}.npz", **arrays)  # type: ignore[arg-type]
    entries = [dict(job.entries) for job in jobs]
    (folder / "entries.json").write_text(json.dumps(entries), encoding="utf-8")
    run_emulated(cpu, RUN, str(folder))
    paths = [folder / f"{number}_outputs.npz" for number in range(len(jobs))]
    return [_outputs(path, len(job.feeds)) for path, job in zip(paths, jobs, strict=True)]


def run_emulated(cpu: str, script: str, *arguments: str) -> None:
    """Run a Python script on a CPU model; where the script fails, so does the test."""
    argv = [str(QEMU), "-cpu", cpu, sys.executable, "-c", script, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _outputs(path: Path, count: int) -> list[dict[str, Array]]:
    outputs: list[dict[str, Array]] = [{} for _ in range(count)]
    with np.load(path) as stored:
        for key, array in stored.items():
            index, _, name = key.partition("/")
            outputs[int(index)][name] = array
    return outputs
