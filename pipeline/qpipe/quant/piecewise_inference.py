"""A network computed piece by piece over many samples: each tensor once, and kept only while something will read it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant
from qpipe.quant.inference import session
from qpipe.samples.store import Samples
from qpipe.types import Array

LAZY = (
    "Constant",
    "DequantizeLinear",
)  # computed anew by whoever reads them: tensors are kept as integers


@dataclass
class Room:
    """How many bytes of arrays memory may still hold; what is beyond lies in unnamed files of a folder."""

    folder: Path
    free: int


class Pile:
    """One tensor's arrays, sample by sample, each in memory as far as there is room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._arrays: list[Array | tuple[int, np.dtype[Any], tuple[int, ...]]] = []
        self._file: IO[bytes] | None = None

    def append(self, array: Array) -> None:
        """Put one more on it."""
        if array.nbytes <= self._room.free:
            self._room.free -= array.nbytes
            self._arrays.append(array)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._room.folder)  # noqa: SIM115  (open as long as the pile)
        self._arrays.append((self._file.seek(0, 2), array.dtype, array.shape))
        self._file.write(np.ascontiguousarray(array).data)

    def __getitem__(self, index: int) -> Array:
        kept = self._arrays[index]
        if isinstance(kept, np.ndarray):
            return kept
        offset, dtype, shape = kept
        assert self._file is not None
        self._file.seek(offset)
        return np.frombuffer(self._file.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(
            shape
        )

    def drop(self, index: int) -> None:
        """Let go of one array, for which nobody will ask again."""
        kept = self._arrays[index]
        if isinstance(kept, np.ndarray):
            self._room.free += kept.nbytes
            self._arrays[index] = np.empty(0, kept.dtype)

    def close(self) -> None:
        """Let go of all of them, and of the file."""
        for index in range(len(self._arrays)):
            self.drop(index)
        if self._file is not None:
            self._file.close()


class Segments:
    """A network on the first `count` samples, computed as far as some layers' inputs were asked for.

    A context manager: its files end with it. Ask in the order of the graph. Weights and biases of layers may change
    until they are computed: those asked for, and all behind them, are not.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[ir.Node],
        samples: Samples,
        count: int,
        room: Room,
        *,
        threads: int = 1,
    ) -> None:
        self._model = model
        self._samples = samples
        self._count = count
        self._room = room
        self._threads = threads
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            for value in _read_by(node):
                self._readers.setdefault(value, []).append(node)
        self._piles: dict[ir.Value, Pile] = {}
        needed = {*layers, *self._before([_input(layer) for layer in layers])[0]}
        self._done = {node for node in model.graph if node not in needed}

    def __enter__(self) -> Segments:
        return self

    def __exit__(self, *_: object) -> None:
        for pile in self._piles.values():
            pile.close()

    def inputs(self, layer: ir.Node) -> Iterator[Array]:
        """What a layer multiplies by its weights, for each sample in turn."""
        return self._arrays(_input(layer))

    def _arrays(self, value: ir.Value) -> Iterator[Array]:
        if (coded := _coded(value)) is not None:
            codes, scale, zero_point = coded
            return (
                (array.astype(np.float32) - zero_point) * scale for array in self._arrays(codes)
            )
        if value.is_graph_input():
            name = value.name or ""
            return (self._samples.feeds(index, [name])[name] for index in range(self._count))
        if value not in self._piles:
            self._compute(value)
        pile = self._piles[value]
        return (pile[index] for index in range(self._count))

    def _compute(self, value: ir.Value) -> None:
        nodes, sources = self._before([value])
        self._done.update(node for node in nodes if node.op_type not in LAZY)
        made = [one for node in nodes if node.op_type not in LAZY for one in node.outputs]
        kept = {one: Pile(self._room) for one in made if one is value or self._is_wanted(one)}
        spent = {one for one in self._piles if not self._is_wanted(one)}
        running = self._session(sources, list(kept))
        for index in range(self._count):
            results = running.run(None, self._feeds(sources, index))
            for one in spent:
                self._piles[one].drop(index)
            for pile, array in zip(kept.values(), results, strict=True):
                pile.append(array)
        for one in spent:
            self._piles.pop(one).close()
        self._piles |= kept

    def _before(self, values: Sequence[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
        """The nodes that compute these tensors, in no order, and the tensors that these start from."""
        nodes: dict[ir.Node, None] = {}
        sources: dict[ir.Value, None] = {}
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if value in self._piles or value.is_graph_input():
                sources[value] = None
            elif node is not None and node not in nodes:
                nodes[node] = None
                waiting.extend(_read_by(node))
        return list(nodes), list(sources)

    def _is_wanted(self, value: ir.Value) -> bool:
        """Whether what is still to be computed reads a tensor."""
        readers = self._readers.get(value, ())
        if any(node not in self._done for node in readers if node.op_type not in LAZY):
            return True
        return any(
            self._is_wanted(one) for node in readers if node.op_type in LAZY for one in node.outputs
        )

    def _session(self, sources: list[ir.Value], kept: list[ir.Value]) -> Any:
        graph = ir.convenience.extract(self._model.graph, sources, kept)
        for value, source in zip(graph.inputs, sources, strict=True):
            if source in self._piles:
                first = self._piles[source][0]
                value.dtype = ir.DataType.from_numpy(first.dtype)
                value.shape = ir.Shape(first.shape)
        return session(
            ir.Model(graph, ir_version=self._model.ir_version),
            threads=self._threads,
            optimize=False,
        )

    def _feeds(self, sources: list[ir.Value], index: int) -> dict[str, Array]:
        fed = [value.name for value in sources if value.is_graph_input() and value.name]
        feeds = self._samples.feeds(index, fed) if fed else {}
        return feeds | {
            value.name or "": self._piles[value][index] for value in sources if value in self._piles
        }


def _coded(value: ir.Value) -> tuple[ir.Value, Array, Array] | None:
    """The integers that a per-tensor DequantizeLinear makes a tensor of, its scale and zero point in float32."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    parameters = [constant(parameter) for parameter in node.inputs[1:]]
    if any(parameter is None or parameter.size != 1 for parameter in parameters):
        return None
    scale, zero_point = (
        *(np.float32(parameter.item()) for parameter in parameters if parameter is not None),
        np.float32(0),
    )[:2]
    return node.inputs[0], np.asarray(scale), np.asarray(zero_point)


def _input(layer: ir.Node) -> ir.Value:
    value = layer.inputs[0]
    assert value is not None
    return value


def _read_by(node: ir.Node) -> list[ir.Value]:
    """What a node reads, also inside its branches and loops."""
    inner = [
        one
        for attribute in node.attributes.values()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for graph in (
            attribute.as_graphs()
            if attribute.type == ir.AttributeType.GRAPHS
            else [attribute.as_graph()]
        )
        for one in ir.traversal.RecursiveGraphIterator(graph)
    ]
    return [value for one in (node, *inner) for value in one.inputs if value is not None]
