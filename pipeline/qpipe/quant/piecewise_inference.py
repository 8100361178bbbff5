"""A network computed piece by piece over many samples, with tensors kept while they are needed.

Each tensor is computed once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant_tensor, values_read
from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.quant.qdq import scale_and_zero_point_of
from qpipe.samples.store import Samples
from qpipe.types import Array

# computed again wherever they are read: tensors are kept as integers
RECOMPUTED = ("Constant", "DequantizeLinear")


@dataclass
class MemoryBudget:
    """How many bytes of arrays memory may still hold.

    What is beyond lies in unnamed files of a folder.
    """

    folder: Path
    free: int


@dataclass(frozen=True)
class _OnDisk:
    """An array in a file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class SpillingArrays:
    """One tensor's arrays by sample, in memory as far as the budget goes, and on disk beyond."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._arrays: list[Array | _OnDisk] = []
        self._file: IO[bytes] | None = None

    def append(self, array: Array) -> None:
        """Add the array of the next sample."""
        if array.nbytes <= self._budget.free:
            self._budget.free -= array.nbytes
            self._arrays.append(array)
            return
        if self._file is None:
            folder = self._budget.folder
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (`close` closes it)
        end = self._file.seek(0, 2)
        self._arrays.append(_OnDisk(end, array.dtype, array.shape))
        self._file.write(np.ascontiguousarray(array).data)

    def __getitem__(self, index: int) -> Array:
        entry = self._arrays[index]
        if isinstance(entry, np.ndarray):
            return entry
        assert self._file is not None
        self._file.seek(entry.offset)
        content = self._file.read(int(np.prod(entry.shape)) * entry.dtype.itemsize)
        return np.frombuffer(content, entry.dtype).reshape(entry.shape)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of one array, without reading it."""
        return self._arrays[index].shape

    def free(self, index: int) -> None:
        """Give back the memory of one array, which will not be read again."""
        entry = self._arrays[index]
        if isinstance(entry, np.ndarray):
            self._budget.free += entry.nbytes
            self._arrays[index] = np.empty(0, entry.dtype)

    def close(self) -> None:
        """Give back the memory of all arrays, and close the file."""
        for index in range(len(self._arrays)):
            self.free(index)
        if self._file is not None:
            self._file.close()


class PiecewiseInference:
    """A network on the first `count` samples, computed up to the layers whose inputs are asked for.

    It is a context manager: its files end with it. Ask in the order of the graph. Weights and
    biases of layers may change until they are computed: those of the layers asked for, and of all
    after them, are not yet.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[ir.Node],
        samples: Samples,
        count: int,
        budget: MemoryBudget,
        *,
        threads: int = 1,
    ) -> None:
        self._model = model
        self._samples = samples
        self._count = count
        self._budget = budget
        self._threads = threads
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            for value in values_read(node):
                self._readers.setdefault(value, []).append(node)
        self._stored: dict[ir.Value, SpillingArrays] = {}
        nodes_before_layers, _ = self._subgraph([_first_input(layer) for layer in layers])
        needed_nodes = {*layers, *nodes_before_layers}
        # nodes that need not be computed, or not any more
        self._done = {node for node in model.graph if node not in needed_nodes}

    def __enter__(self) -> PiecewiseInference:
        return self

    def __exit__(self, *_: object) -> None:
        for arrays in self._stored.values():
            arrays.close()

    def inputs(self, layer: ir.Node) -> Iterator[Array]:
        """Return what a layer multiplies by its weights, for each sample in turn."""
        return self._values(_first_input(layer))

    def _values(self, value: ir.Value) -> Iterator[Array]:
        """Return a tensor's array for each sample in turn, computing what is missing."""
        quantized = _per_tensor_codes(value)
        if quantized is not None:
            return self._dequantized(quantized)
        if value.is_graph_input():
            name = value.name or ""
            shapes = input_shapes(self._model, [name])
            return (self._samples.feeds(index, shapes)[name] for index in range(self._count))
        if value not in self._stored:
            self._compute(value)
        arrays = self._stored[value]
        return (arrays[index] for index in range(self._count))

    def _dequantized(self, quantized: _Codes) -> Iterator[Array]:
        arrays = self._values(quantized.codes)
        return (
            (array.astype(np.float32) - quantized.zero_point) * quantized.scale for array in arrays
        )

    def _compute(self, value: ir.Value) -> None:
        """Compute a tensor for all samples, and store all on the way to it that will be read."""
        nodes, sources = self._subgraph([value])
        computed_nodes = [node for node in nodes if node.op_type not in RECOMPUTED]
        self._done.update(computed_nodes)
        results = {
            output: SpillingArrays(self._budget)
            for node in computed_nodes
            for output in node.outputs
            if output is value or self._will_be_read(output)
        }
        finished = [stored for stored in self._stored if not self._will_be_read(stored)]
        session = self._open_session(sources, list(results))
        for index in range(self._count):
            outputs = infer(session, self._feeds(sources, index))
            for stored in finished:
                self._stored[stored].free(index)
            for arrays, output in zip(results.values(), outputs.values(), strict=True):
                arrays.append(output)
        for stored in finished:
            self._stored.pop(stored).close()
        self._stored |= results

    def _subgraph(self, values: Sequence[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
        """Return the nodes that compute tensors, in no order, and the tensors they start from."""
        nodes: dict[ir.Node, None] = {}
        sources: dict[ir.Value, None] = {}
        pending = list(values)
        while pending:
            value = pending.pop()
            node = value.producer()
            if value in self._stored or value.is_graph_input():
                sources[value] = None
            elif node is not None and node not in nodes:
                nodes[node] = None
                pending.extend(values_read(node))
        return list(nodes), list(sources)

    def _will_be_read(self, value: ir.Value) -> bool:
        """Return whether a node that is still to be computed reads a tensor."""
        for node in self._readers.get(value, ()):
            if node.op_type not in RECOMPUTED:
                if node not in self._done:
                    return True
            elif any(self._will_be_read(output) for output in node.outputs):
                return True
        return False

    def _open_session(self, sources: list[ir.Value], outputs: list[ir.Value]) -> Any:
        graph = ir.convenience.extract(self._model.graph, sources, outputs)
        for graph_input, source in zip(graph.inputs, sources, strict=True):
            if source in self._stored:
                first = self._stored[source][0]
                graph_input.dtype = ir.DataType.from_numpy(first.dtype)
                graph_input.shape = self._common_shape(source)
        piece = ir.Model(graph, ir_version=self._model.ir_version)
        return open_session(piece, threads=self._threads, optimize=False)

    def _common_shape(self, source: ir.Value) -> ir.Shape:
        """Return the shape of a stored tensor; sizes that differ by sample are open."""
        shapes = [self._stored[source].shape(index) for index in range(self._count)]
        sizes = [set(axis_sizes) for axis_sizes in zip(*shapes, strict=True)]
        return ir.Shape([size.pop() if len(size) == 1 else None for size in sizes])

    def _feeds(self, sources: list[ir.Value], index: int) -> dict[str, Array]:
        names = [value.name for value in sources if value.is_graph_input() and value.name]
        feeds: dict[str, Array] = {}
        if names:
            feeds = self._samples.feeds(index, input_shapes(self._model, names))
        for value in sources:
            if value in self._stored:
                feeds[value.name or ""] = self._stored[value][index]
        return feeds


@dataclass(frozen=True)
class _Codes:
    """A tensor of integers, and the float32 scale and zero point that dequantize it."""

    codes: ir.Value
    scale: Array
    zero_point: Array


def _per_tensor_codes(value: ir.Value) -> _Codes | None:
    """Return the integers that a per-tensor DequantizeLinear makes a tensor of.

    None for all other tensors.
    """
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    for parameter in node.inputs[1:]:
        tensor = constant_tensor(parameter)
        if tensor is None or tensor.size != 1:
            return None
    scale, zero_point = scale_and_zero_point_of(node)
    assert scale is not None
    zero = np.zeros((), np.float32) if zero_point is None else zero_point
    return _Codes(
        node.inputs[0],
        scale.reshape(()).astype(np.float32),
        zero.reshape(()).astype(np.float32),
    )


def _first_input(layer: ir.Node) -> ir.Value:
    value = layer.inputs[0]
    assert value is not None
    return value
