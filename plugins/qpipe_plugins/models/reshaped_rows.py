"""Reshapes around Gemm, which takes rows: what need not be between two Gemms is not.

A Relu between Reshapes runs on no integer kernel, and what is float between two quantized layers
costs more than they save.
"""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant.graph import constant, is_constant, only_reader, remove_unused

REST = -1  # in the target of a Reshape: the size that is left


def keep_rows(graph: ir.Graph) -> None:
    """Let Relu and Clip, and the next Gemm, read the rows that Gemm gives, without a Reshape."""
    _join_limits_to_gemm(graph)
    _drop_reshaping_back(graph)


def _join_limits_to_gemm(graph: ir.Graph) -> None:
    """Put each Relu or Clip before the Reshape between it and Gemm.

    The limits of Gemm's integers then compute it.
    """
    for node in list(graph):
        if node.op_type not in ("Relu", "Clip") or node.domain or node.inputs[0] is None:
            continue
        reshape = node.inputs[0].producer()
        if reshape is None or reshape.op_type != "Reshape":
            continue
        if not all(value is None or is_constant(value) for value in node.inputs[1:]):
            continue
        source = reshape.inputs[0]
        gemm = source.producer() if source is not None else None
        if gemm is None or gemm.op_type != "Gemm" or only_reader(gemm.outputs[0]) is not reshape:
            continue
        if only_reader(reshape.outputs[0]) is not node:
            continue
        name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(reshape.outputs[0], replace_graph_outputs=True)
        node.outputs[0].name = reshape.outputs[0].name
        reshape.outputs[0].name = name
        node.replace_input_with(0, source)
        node.outputs[0].shape = gemm.outputs[0].shape
        reshape.replace_input_with(0, node.outputs[0])
        graph.remove(node)
        graph.insert_before(reshape, node)


def _drop_reshaping_back(graph: ir.Graph) -> None:
    """Let what follows read the matrix itself where a Reshape makes it of what was one before."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] else None
        if before is None or before.op_type != "Reshape" or node.outputs[0].is_graph_output():
            continue
        matrix = before.inputs[0]
        target = constant(node.inputs[1])
        if matrix is None or matrix.shape is None or target is None:
            continue
        if len(matrix.shape) == 2 and target.tolist() == [REST, matrix.shape[1]]:
            node.outputs[0].replace_all_uses_with(matrix)
            remove_unused(graph, node.outputs[0])
