"""Simplification at import: the same function in the fewest operators, with known shapes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.quant.graph import without_subgraphs
from qpipe_plugins.models.branch_inlining import inline_constant_branches
from qpipe_plugins.models.channel_scaling import fold_channel_scaling, fold_gemm_factors
from qpipe_plugins.models.constant_folding import fold_constants
from qpipe_plugins.models.float_types import compute_in_float32
from qpipe_plugins.models.impossible_branches import decide_branch
from qpipe_plugins.models.input_scaling import fold_input_scaling
from qpipe_plugins.models.node_replacement import replace_node
from qpipe_plugins.models.operator_fusion import fuse_operators
from qpipe_plugins.models.pad_folding import fold_pads
from qpipe_plugins.models.shape_inference import infer_shapes


def simplify(model: ir.Model) -> None:
    """Remove Identity, Dropout and decided If, fold what is constant, infer all shapes.

    Batch normalization is folded, too; what is not constant is computed in float32. Raise
    ContradictionError where types or shapes do not fit together.
    """
    _fold(model)
    while decide_branch(model):
        _fold(model)
    if compute_in_float32(model):
        _fold(model)
    fold_gemm_factors(model.graph)
    fold_channel_scaling(model.graph)
    fold_input_scaling(model.graph)
    fold_pads(model.graph)
    is_fused = fuse_operators(model.graph)
    with without_subgraphs(model.graph):
        common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    if is_fused:
        infer_shapes(model)


def _fold(model: ir.Model) -> None:
    """Fold until nothing more is constant."""
    may_fold_more = True
    while may_fold_more:
        _replace_dropout(model.graph)
        inline_constant_branches(model.graph)
        _remove_identities(model.graph)
        infer_shapes(model)
        may_fold_more = fold_constants(model)


def _replace_dropout(graph: ir.Graph) -> None:
    """Replace Dropout by Identity, unless its mask is used.

    With training_mode true the network is not one for inference.
    """
    for node in list(graph):
        if node.op_type != "Dropout":
            continue
        masks = node.outputs[1:]
        if not any(mask.uses() or mask.is_graph_output() for mask in masks):
            identity = ir.node("Identity", [node.inputs[0]], name=node.name)
            replace_node(graph, node, identity)


def _remove_identities(graph: ir.Graph) -> None:
    """Remove each Identity, also one that gives an output of the network if that keeps its name.

    It stays where the tensor before it is an input, a constant, or another output. Those in
    subgraphs stay: a branch cannot give a tensor from outside by itself.
    """
    for node in list(graph):
        if node.op_type != "Identity" or node.domain:
            continue
        source = node.inputs[0]
        output = node.outputs[0]
        is_output = output.is_graph_output()
        if source is None or (is_output and not _can_be_renamed(source, graph)):
            continue
        name = output.name
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if is_output:
            source.name = name


def _can_be_renamed(value: ir.Value, graph: ir.Graph) -> bool:
    node = value.producer()
    return node is not None and node.graph is graph and not value.is_graph_output()
