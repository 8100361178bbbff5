"""The opset and IR version of a build, lowered to what the device's runtime loads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter

from qpipe.errors import StageError
from qpipe.types import Platform
from qpipe_plugins.compile.noise import outputs_on_noise

CONTRIB_DOMAIN = "com.microsoft"  # operators that only ONNX Runtime has


def fit_versions(model: ir.Model, platform: Platform, where: str) -> onnx.ModelProto:
    """Return the network as the platform's runtime loads it.

    Its opset is at most the platform's; a lowered network must give the same numbers as before.
    Its IR version is the oldest that the opset allows. Raise StageError, naming the operator,
    where that is not possible, and for an operator that only another runtime has.
    """
    for node in model.graph:
        if node.domain == CONTRIB_DOMAIN and platform.runtime != "onnxruntime":
            raise StageError(
                f"{where}: operator {node.op_type} of {CONTRIB_DOMAIN} is ONNX Runtime's own; "
                "use compile onnxruntime"
            )
    network_opset = model.opset_imports.get("", 0)
    opset = min(network_opset, platform.max_opset)
    ir_version = _min_ir_version(opset)
    if ir_version > platform.max_ir_version:
        raise StageError(
            f"{where}: the network needs IR version {ir_version}, "
            f"the device's {platform.runtime} loads up to {platform.max_ir_version}; "
            "export it with an older opset, or update the runtime on the device"
        )
    model.ir_version = ir_version
    if opset == network_opset:
        return ir.to_proto(model)
    return _lower(model, platform, where)


def _min_ir_version(opset: int) -> int:
    opset_id = onnx.helper.make_opsetid("", opset)
    return onnx.helper.find_min_ir_version_for([opset_id], ignore_unknown=True)


def _lower(model: ir.Model, platform: Platform, where: str) -> onnx.ModelProto:
    """Return the network in the platform's opset; StageError where it gives other numbers."""
    expected = list(outputs_on_noise(model).values())
    for candidate in _lowered_candidates(ir.to_proto(model), platform.max_opset):
        outputs = list(outputs_on_noise(ir.from_proto(candidate)).values())
        is_equal = [
            np.array_equal(array, expected_array, equal_nan=True)
            for array, expected_array in zip(outputs, expected, strict=True)
        ]
        if all(is_equal):
            return candidate
    obstacle, opset = _obstacle(model, platform.max_opset)
    raise StageError(
        f"{where}: {obstacle} needs opset {opset}, "
        f"the device's {platform.runtime} loads up to opset {platform.max_opset}; "
        "export the network with an older opset, or update the runtime on the device"
    )


def _lowered_candidates(proto: onnx.ModelProto, opset: int) -> Iterator[onnx.ModelProto]:
    """Yield the valid networks that result from two ways to lower the opset.

    As it is, which works where its operators changed in nothing that it uses; and by onnx's own
    converter.
    """
    for convert in (_relabel, version_converter.convert_version):
        try:
            lowered = convert(proto, opset)
            lowered.ir_version = _min_ir_version(opset)
            onnx.checker.check_model(lowered, full_check=True)
        except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
        del lowered.graph.value_info[:]
        yield lowered


def _relabel(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy that claims to be of another opset."""
    relabelled = onnx.ModelProto()
    relabelled.CopyFrom(proto)
    for entry in relabelled.opset_import:
        if not entry.domain:
            entry.version = opset
    return relabelled


def _obstacle(model: ir.Model, opset: int) -> tuple[str, int]:
    """Return what prevents an older opset, and the opset that it needs.

    It is an operator that the older opset lacks, else one that has changed since.
    """
    network_opset = model.opset_imports.get("", 0)
    changed = ("the network", network_opset)
    for node in model.graph:
        if node.domain:
            continue
        since = onnx.defs.get_schema(node.op_type, network_opset).since_version
        if not onnx.defs.has(node.op_type, opset, ""):
            return f"operator {node.op_type}", since
        if since > opset:
            changed = (f"operator {node.op_type} as it is used here", since)
    return changed
