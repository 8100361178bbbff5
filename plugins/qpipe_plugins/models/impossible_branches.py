"""Branches that cannot be computed with the pinned shapes: the other one is always taken."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import add_initializer
from qpipe.quant.inference import InferenceError, open_session
from qpipe_plugins.models.branch_inlining import if_nodes, inline_constant_branches

log = logging.getLogger(__name__)


def decide_branch(model: ir.Model) -> bool:
    """Give an If a constant condition where one of its branches keeps the network from loading.

    With open shapes ONNX Runtime loads the file: an inference that takes this branch fails. With
    pinned shapes it refuses the network. Return whether there was such an If.
    """
    nodes = list(if_nodes(model.graph))
    if not nodes or _loads(model):
        return False
    for index, node in enumerate(nodes):
        loading = [taken for taken in (True, False) if _loads(_decided(model, index, taken=taken))]
        if len(loading) == 1:
            _set_condition(model, node, taken=loading[0])
            log.info("If '%s': only its %s branch fits the shapes", node.name, _name(loading[0]))
            return True
    return False


def _decided(model: ir.Model, index: int, *, taken: bool) -> ir.Model:
    """Return a copy of the network in which one If has been replaced by a branch."""
    copy = ir.from_proto(ir.to_proto(model))
    node = list(if_nodes(copy.graph))[index]
    _set_condition(copy, node, taken=taken)
    inline_constant_branches(copy.graph)
    return copy


def _set_condition(model: ir.Model, node: ir.Node, *, taken: bool) -> None:
    condition = add_initializer(model.graph, "condition", np.array(taken))
    node.replace_input_with(0, condition)


def _loads(model: ir.Model) -> bool:
    try:
        open_session(model, optimize=False)
    except InferenceError:
        return False
    return True


def _name(taken: bool) -> str:
    return "then" if taken else "else"
