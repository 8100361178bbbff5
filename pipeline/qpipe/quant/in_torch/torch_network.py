"""An ONNX network computed by torch, node by node; parts of it may be computed otherwise.

Operators that the table lacks are computed by ONNX Runtime: their numbers are right, and no
gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from qpipe.quant.graph import constant_tensor, values_read

# the modules that fill the table
from qpipe.quant.in_torch import (  # noqa: F401
    elementwise_operators,
    fake_quantization,
    layer_operators,
    shape_operators,
)
from qpipe.quant.in_torch.operator_table import OPERATORS, Operation, Tensor, as_outputs
from qpipe.quant.inference import infer, open_session

Tensors = dict[ir.Value, Tensor]


@dataclass(frozen=True, eq=False)
class Replacement:
    """How a tensor is computed in place of the node that gives it in the network's file."""

    inputs: tuple[ir.Value, ...]
    function: Callable[..., Tensor]


class TorchNetwork:
    """A network whose tensors torch computes, from the inputs or from any others that are fed.

    `replacements` say which tensors are computed otherwise. Constants are read once: a node of the
    model may change, its constants not.
    """

    def __init__(
        self,
        model: ir.Model,
        replacements: Mapping[ir.Value, Replacement] | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.device = device
        self.foreign_nodes: dict[ir.Node, str] = {}  # those of ONNX Runtime, and why
        self._replacements = dict(replacements or {})
        self._constants: Tensors = {}
        self._plans: dict[tuple[frozenset[ir.Value], tuple[ir.Value, ...]], _Plan] = {}
        self._sessions: dict[tuple[ir.Node, tuple[tuple[int, ...], ...]], Any] = {}
        self._opsets = model.opset_imports

    def input_values(self, feeds: Mapping[str, Tensor]) -> Tensors:
        """Return what is fed by name as tensors of the graph."""
        values = {value.name: value for value in self.model.graph.inputs}
        return {values[name]: tensor for name, tensor in feeds.items() if name in values}

    def outputs(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's outputs by name."""
        values = list(self.model.graph.outputs)
        tensors = self.compute(self.input_values(feeds), values)
        return {value.name or "": tensors[value] for value in values}

    def compute(self, sources: Mapping[ir.Value, Tensor], wanted: Sequence[ir.Value]) -> Tensors:
        """Return the tensors `wanted`, computed from those of `sources`."""
        key = (frozenset(sources), tuple(wanted))
        if key not in self._plans:
            self._plans[key] = self._plan(sources, wanted)
        tensors = dict(sources)
        for step in self._plans[key].steps:
            self._carry_out(step, tensors)
            for value in step.finished:
                tensors.pop(value, None)
        return {value: self._tensor(value, tensors) for value in wanted}

    # ---- what is computed, in which order

    def _plan(self, sources: Collection[ir.Value], wanted: Sequence[ir.Value]) -> _Plan:
        positions = {node: position for position, node in enumerate(self.model.graph)}
        steps: dict[ir.Value | ir.Node, _Step] = {}
        order: dict[ir.Value | ir.Node, int] = {}
        pending = list(wanted)
        seen = set(sources)
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            node = value.producer()
            replacement = self._replacements.get(value)
            if replacement is not None:
                steps[value] = _Step(replacement.inputs, (value,), replacement.function)
                order[value] = -1 if node is None else positions[node]
                pending.extend(replacement.inputs)
            elif node is not None and node not in steps:
                inputs = tuple(values_read(node))
                steps[node] = _Step(inputs, tuple(node.outputs), node)
                order[node] = positions[node]
                pending.extend(inputs)
        # a tensor that is computed otherwise may be read by nodes that come before its own
        ordered = _in_order([steps[key] for key in sorted(steps, key=order.__getitem__)], sources)
        varying = self._fold_constants(ordered, sources)
        return _Plan(_with_finished(varying, {*wanted, *sources}))

    def _fold_constants(self, steps: Sequence[_Step], sources: Collection[ir.Value]) -> list[_Step]:
        """Compute what depends on nothing but constants; return the other steps."""
        varying = []
        changing = set(sources)
        for step in steps:
            depends = any(value in changing for value in step.inputs)
            if depends or not isinstance(step.source, ir.Node):
                varying.append(step)
                changing.update(step.outputs)
            elif not all(value in self._constants for value in step.outputs):
                with torch.no_grad():
                    self._carry_out(step, self._constants)
        return varying

    # ---- computing

    def _carry_out(self, step: _Step, tensors: Tensors) -> None:
        if not isinstance(step.source, ir.Node):
            inputs = [self._tensor(value, tensors) for value in step.inputs]
            (output,) = step.outputs
            tensors[output] = step.source(*inputs)
            return
        node = step.source
        results = self._apply(node, tensors)
        for value, result in zip(node.outputs, results, strict=False):
            tensors[value] = result

    def _apply(self, node: ir.Node, tensors: Tensors) -> Sequence[Any]:
        function = OPERATORS.get((_domain(node), node.op_type))
        if function is not None and node not in self.foreign_nodes:
            inputs = [
                None if value is None else self._tensor(value, tensors) for value in node.inputs
            ]
            operation = Operation(node, self._opsets.get(node.domain, 0))
            try:
                results = as_outputs(function(operation, *inputs))
            except NotImplementedError as error:
                self.foreign_nodes[node] = str(error)
            else:
                if not any(_is_read(value) for value in node.outputs[len(results) :]):
                    return results
                self.foreign_nodes[node] = "torch does not give all of its outputs"
        self.foreign_nodes.setdefault(node, "torch has no function for it")
        return self._infer(node, tensors)

    def _tensor(self, value: ir.Value, tensors: Tensors) -> Tensor:
        if value in tensors:
            return tensors[value]
        if value not in self._constants:
            tensor = constant_tensor(value)
            assert tensor is not None, f"'{value.name}' is neither computed nor constant"
            self._constants[value] = to_torch(tensor.numpy()).to(self.device)
        return self._constants[value]

    # ---- operators of ONNX Runtime

    def _infer(self, node: ir.Node, tensors: Tensors) -> list[Tensor | None]:
        sources = [value for value in dict.fromkeys(values_read(node)) if not _is_fixed(value)]
        arrays = {value: self._array(value, tensors) for value in sources}
        shapes = tuple(array.shape for array in arrays.values())
        if (node, shapes) not in self._sessions:
            self._sessions[node, shapes] = self._open(node, arrays)
        names = {value.name or "": array for value, array in arrays.items()}
        results = infer(self._sessions[node, shapes], names)
        return [
            to_torch(results[value.name]).to(self.device) if value.name in results else None
            for value in node.outputs
        ]

    def _array(self, value: ir.Value, tensors: Tensors) -> np.ndarray[Any, Any]:
        """Return a tensor in the type that the network's file says: codes are floats here."""
        array: np.ndarray[Any, Any] = self._tensor(value, tensors).detach().cpu().numpy()
        if value.dtype is not None and value.dtype.numpy() != array.dtype:
            return array.astype(value.dtype.numpy())
        return array

    def _open(self, node: ir.Node, arrays: Mapping[ir.Value, np.ndarray[Any, Any]]) -> Any:
        outputs = [value for value in node.outputs if value.name]
        graph = ir.convenience.extract(self.model.graph, list(arrays), outputs)
        for graph_input, array in zip(graph.inputs, arrays.values(), strict=True):
            graph_input.dtype = ir.DataType.from_numpy(array.dtype)
            graph_input.shape = ir.Shape(array.shape)
        for value in graph.outputs:
            value.shape = None
        return open_session(ir.Model(graph, ir_version=self.model.ir_version), optimize=False)


@dataclass(frozen=True, eq=False)
class _Step:
    """A node, or a replacement, with what it reads and gives; then what nothing reads any more."""

    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    source: ir.Node | Callable[..., Tensor]
    finished: tuple[ir.Value, ...] = ()


@dataclass(frozen=True, eq=False)
class _Plan:
    """Steps in an order in which each finds what it reads."""

    steps: Sequence[_Step]


def _in_order(steps: Sequence[_Step], sources: Collection[ir.Value]) -> list[_Step]:
    """Return steps so that each comes behind those whose outputs it reads, else as they are."""
    by_output = {value: step for step in steps for value in step.outputs}
    done: set[_Step] = set()
    ordered: list[_Step] = []

    def visit(step: _Step) -> None:
        stack = [step]
        while stack:
            current = stack[-1]
            before = [
                by_output[value]
                for value in current.inputs
                if value in by_output and value not in sources and by_output[value] not in done
            ]
            if before:
                stack.extend(before)
                continue
            stack.pop()
            if current not in done:
                done.add(current)
                ordered.append(current)

    for step in steps:
        visit(step)
    return ordered


def _with_finished(steps: Sequence[_Step], kept: Collection[ir.Value]) -> list[_Step]:
    """Return steps that know which tensors no later step reads."""
    last_reader: dict[ir.Value, int] = {}
    for index, step in enumerate(steps):
        for value in (*step.inputs, *step.outputs):
            last_reader[value] = index
    finished: dict[int, list[ir.Value]] = {}
    for value, index in last_reader.items():
        if value not in kept:
            finished.setdefault(index, []).append(value)
    return [
        _Step(step.inputs, step.outputs, step.source, tuple(finished.get(index, ())))
        for index, step in enumerate(steps)
    ]


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _is_fixed(value: ir.Value) -> bool:
    return constant_tensor(value) is not None


def to_torch(array: np.ndarray[Any, Any]) -> Tensor:
    """Return an array as a tensor; integers of less than 8 bits take 8."""
    if array.dtype.kind not in "biufc":  # those of ml_dtypes
        is_float = np.issubdtype(array.dtype, np.floating) or "float" in array.dtype.name
        array = array.astype(np.float32 if is_float else np.int8)
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))
