"""Inference on the host: the one place that opens ONNX Runtime sessions and maps its errors.

ONNX Runtime raises a dozen exception classes of its own, which share no base class but Exception.
Here each of them becomes an InferenceError: one line that names the node where the runtime names
it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.network_inputs import input_shapes, network_inputs
from qpipe.samples.store import Samples
from qpipe.types import Array

if TYPE_CHECKING:
    import onnxruntime

LONGEST_REASON = 300  # characters kept of an error of ONNX Runtime
FATAL = 4  # log severity; what is less severe goes to stderr, which belongs to qpipe's progress

# how ONNX Runtime 1.32 names the node that it fails at
NODE_PATTERNS = (
    re.compile(r"running (?P<operator>\w+) node\. Name:'(?P<name>[^']+)'"),
    re.compile(r"Node ?\((?P<name>[^)]+)\) Op \((?P<operator>\w+)\)"),
    re.compile(r"implementation for (?P<operator>\w+)\(\d+\) node with name '(?P<name>[^']+)'"),
)


class InferenceError(StageError):
    """ONNX Runtime cannot load or run a network.

    `node` is the operator and the name of the node that it fails at, such as "Conv 'conv1'"; None
    where the runtime names none.
    """

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


def open_session(
    model: ir.Model, outputs: Sequence[str] = (), *, threads: int = 1, optimize: bool = True
) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on the host's CPU that computes the tensors named in `outputs`.

    Without `outputs` it computes the network's own outputs. `threads` 0 means one thread per core.
    `optimize` turns all graph optimizations on or off: without them the numbers are those of the
    operators one by one. The model is unchanged when it returns. Raise InferenceError where ONNX
    Runtime does not load the network.
    """
    with _with_outputs(model, outputs):
        network = ir.to_proto(model).SerializeToString()
    return _open(network, f"network '{model.graph.name}'", threads=threads, optimize=optimize)


def open_file(file: Path | bytes, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    """Open a session for an ONNX file, or for the content of one, as it is; see `open_session`."""
    if isinstance(file, bytes):
        return _open(file, "the file", threads=1, optimize=optimize)
    return _open(str(file), f"network '{file.name}'", threads=1, optimize=optimize)


def open_build(file: Path, config: Mapping[str, str]) -> onnxruntime.InferenceSession:
    """Open a session of one thread for the file of a build, to be timed, with its entries."""
    return _start(file, config, profile=None)


def kernel_times(
    file: Path, config: Mapping[str, str], feeds: Mapping[str, Array], count: int = 10
) -> dict[str, float]:
    """Return the seconds that a build spends in the kernels of each operator in one inference."""
    with tempfile.TemporaryDirectory() as folder:
        session = _start(file, config, profile=Path(folder) / "profile")
        for _ in range(count):
            infer(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / count / 1e6
    return dict(times)


def _start(
    file: Path, config: Mapping[str, str], *, profile: Path | None
) -> onnxruntime.InferenceSession:
    """Open a session as it runs on a device: with memory that it keeps."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = FATAL
    for name, value in config.items():
        options.add_session_config_entry(name, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of ONNX Runtime's own, see above
        reason = f"ONNX Runtime cannot load it: {_reason(error)}"
        raise InferenceError(f"network '{file.name}': {reason}") from error


def _open(
    network: bytes | str, where: str, *, threads: int, optimize: bool
) -> onnxruntime.InferenceSession:
    """Open a session for a serialized network, or for the file of this path."""
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = FATAL
    options.graph_optimization_level = levels.ORT_ENABLE_ALL
    if not optimize:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of ONNX Runtime's own, see above
        node = _node_at_fault(error)
        message = f"{where}: ONNX Runtime cannot load {node or 'it'}"
        raise InferenceError(f"{message}: {_reason(error)}", node=node) from error


@contextmanager
def _with_outputs(model: ir.Model, names: Sequence[str]) -> Iterator[None]:
    """Let the tensors of these names, if any, be the network's outputs for a while."""
    original_outputs = list(model.graph.outputs)
    if names:
        values = ir.convenience.create_value_mapping(model.graph)
        model.graph.outputs[:] = [values[name] for name in names]
    try:
        yield
    finally:
        model.graph.outputs[:] = original_outputs


def infer(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the session's outputs by name for one set of inputs by name.

    Raise InferenceError, naming the network and the shapes fed, where ONNX Runtime fails.
    """
    try:
        arrays = session.run(None, feeds)
    except Exception as error:  # classes of ONNX Runtime's own, see above
        node = _node_at_fault(error)
        network = session.get_modelmeta().graph_name
        message = f"network '{network}': ONNX Runtime cannot run {node or 'it'} on {_shapes(feeds)}"
        raise InferenceError(f"{message}: {_reason(error)}", node=node) from error
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, arrays, strict=True))


def inferences(
    session: onnxruntime.InferenceSession, samples: Samples, count: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield the outputs by name for each of the first `count` samples (default all), one at a time.

    Each sample is one inference: of a network with states it is one chunk, see
    `engine.sequences`. Raise InferenceError, naming the sample, where ONNX Runtime fails.
    """
    shapes = input_shapes(session)
    total = len(samples) if count is None else min(count, len(samples))
    for index in range(total):
        with _named_sample(samples, index):
            outputs = infer(session, samples.feeds(index, shapes))
        yield outputs
        del outputs  # otherwise two samples' outputs would be in memory at once


def sample_outputs(
    session: onnxruntime.InferenceSession, samples: Samples, indices: Iterable[int]
) -> Iterator[Mapping[str, Array]]:
    """Yield the outputs by name for each of these samples, one at a time.

    Those that are no tensors of numbers, such as texts and sequences, are left out. Where outputs
    feed states of the network, a sample is a sequence, see `SampleFeeds.outputs`. Raise
    InferenceError, naming the sample, where ONNX Runtime fails, and where no output is left.
    """
    network = network_inputs(session)
    for index in indices:
        with _named_sample(samples, index):
            feeds = samples.sequence(index, network)
            all_outputs = feeds.outputs(partial(infer, session))
            outputs = tensors_of_numbers(all_outputs)
            if not outputs:
                problem = f"no output is a tensor of numbers: {', '.join(all_outputs)}"
                fix = "give a network that has one, or leave accuracy out"
                raise InferenceError(f"{problem}; {fix}")
        yield outputs
        del outputs, all_outputs  # otherwise two samples' would be in memory at once


def tensors_of_numbers(outputs: Mapping[str, object]) -> dict[str, Array]:
    """Return the outputs that can be compared: others are texts, sequences or maps."""
    numbers: dict[str, Array] = {}
    for name, output in outputs.items():
        if isinstance(output, np.ndarray) and not output.dtype.hasobject:
            numbers[name] = output
    return numbers


@contextmanager
def _named_sample(samples: Samples, index: int) -> Iterator[None]:
    try:
        yield
    except InferenceError as error:
        message = f"sample '{samples.entries[index]['id']}': {error}"
        raise InferenceError(message, node=error.node) from error


def _node_at_fault(error: Exception) -> str | None:
    for pattern in NODE_PATTERNS:
        match = pattern.search(str(error))
        if match is not None:
            return f"{match['operator']} '{match['name']}'"
    return None


def _reason(error: Exception) -> str:
    """Return the first line of an error, or its class where it says nothing."""
    lines = str(error).splitlines()
    return lines[0][:LONGEST_REASON] if lines else type(error).__name__


def _shapes(feeds: Mapping[str, Array]) -> str:
    """Return the inputs as text: x float32[1, 3, 8, 8]."""
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
