"""Simplification at import: the same function in the fewest operators, with known shapes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe_plugins.models.batch_norm_folding import fold_batch_norms, fold_gemm_factors
from qpipe_plugins.models.constant_folding import fold_constants
from qpipe_plugins.models.operator_fusion import fuse_operators, replace_node
from qpipe_plugins.models.shape_inference import infer_shapes


def simplify(model: ir.Model) -> bool:
    """Remove Identity and Dropout, fold constants and batch normalization, infer all shapes.

    Return False where the shapes contradict each other.
    """
    may_fold_more = True
    while may_fold_more:
        _replace_dropout(model.graph)
        common.IdentityEliminationPass()(model)
        if not infer_shapes(model):
            return False
        may_fold_more = fold_constants(model)
    fold_gemm_factors(model.graph)
    fold_batch_norms(model.graph)
    is_fused = fuse_operators(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    return infer_shapes(model) if is_fused else True


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
