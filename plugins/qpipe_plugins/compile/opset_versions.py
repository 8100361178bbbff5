"""The opset and IR version of a build, brought down to what the device's runtime loads where the network allows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter

from qpipe.errors import StageError
from qpipe.quant.inference import session
from qpipe.types import Array, Platform

CONTRIB = "com.microsoft"  # operators that ONNX Runtime alone has


def fit(model: ir.Model, platform: Platform, where: str) -> onnx.ModelProto:
    """The network as the platform's runtime loads it, with the oldest IR version that its opset allows.

    Above the platform's opset it is brought down and must give the same numbers as before. StageError, naming the
    operator, where that cannot be, or where an operator belongs to another runtime.
    """
    foreign = next((node for node in model.graph if node.domain == CONTRIB), None)
    if foreign is not None and platform.runtime != "onnxruntime":
        raise StageError(
            f"{where}: operator {foreign.op_type} of {CONTRIB} is ONNX Runtime's own; compile onnxruntime takes it"
        )
    opset = min(model.opset_imports.get("", 0), platform.max_opset)
    needed = _ir_version(opset)
    if needed > platform.max_ir_version:
        raise StageError(
            f"{where}: the network needs IR version {needed}, the device's {platform.runtime} loads up to "
            f"{platform.max_ir_version}; export it with an older opset, or update the runtime on the device"
        )
    model.ir_version = needed
    return (
        ir.to_proto(model)
        if opset == model.opset_imports.get("", 0)
        else _lower(model, platform, where)
    )


def _ir_version(opset: int) -> int:
    return onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", opset)], ignore_unknown=True
    )


def _lower(model: ir.Model, platform: Platform, where: str) -> onnx.ModelProto:
    before = _outputs(model)
    for lowered in _lowered(ir.to_proto(model), platform.max_opset):
        after = _outputs(ir.from_proto(lowered))
        if all(
            np.array_equal(one, other, equal_nan=True)
            for one, other in zip(before, after, strict=True)
        ):
            return lowered
    newer, opset = _newer(model, platform.max_opset)
    raise StageError(
        f"{where}: {newer} needs opset {opset}, the device's {platform.runtime} loads up to opset "
        f"{platform.max_opset}; export the network with an older opset, or update the runtime on the device"
    )


def _lowered(proto: onnx.ModelProto, opset: int) -> Iterator[onnx.ModelProto]:
    """The ways to say the same in an older opset, those that are valid: as it is, where its operators changed in
    nothing that it uses; by onnx's own converter."""
    for convert in (_relabel, version_converter.convert_version):
        try:
            lowered = convert(proto, opset)
            lowered.ir_version = _ir_version(opset)
            onnx.checker.check_model(lowered, full_check=True)
        except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
        del lowered.graph.value_info[:]
        yield lowered


def _relabel(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    relabelled = onnx.ModelProto()
    relabelled.CopyFrom(proto)
    next(each for each in relabelled.opset_import if not each.domain).version = opset
    return relabelled


def _newer(model: ir.Model, opset: int) -> tuple[str, int]:
    """What stands in the way: an operator that the older opset lacks, else one that has changed since, with the opset
    that it needs."""
    changed = ("the network", model.opset_imports.get("", 0))
    for node in model.graph:
        if node.domain:
            continue
        since = onnx.defs.get_schema(node.op_type, model.opset_imports[""]).since_version
        if not onnx.defs.has(node.op_type, opset, ""):
            return f"operator {node.op_type}", since
        if since > opset:
            changed = (f"operator {node.op_type} as it is used here", since)
    return changed


def _outputs(model: ir.Model) -> list[Array]:
    """What the network makes of noise, unoptimized, on the host."""
    random = np.random.default_rng(0)
    running = session(model, optimize=False)
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        noise = random.normal(size=value.shape.numpy())
        feeds[value.name] = (noise if value.dtype.is_floating_point() else noise > 0).astype(
            value.dtype.numpy()
        )
    made: list[Array] = running.run(None, feeds)
    return made
