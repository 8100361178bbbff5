"""ONNX Runtime's own static quantizer, to compare with."""

from __future__ import annotations

from typing import Any, Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import (
    calibration_reader,
    isolated_library,
    name_excluded_nodes,
    read_quantized,
    separate_biases,
)

MAX_STRIDE = 8  # samples whose activations its histograms hold in memory at once
WHERE = "quantize onnxruntime_static"
INSTALL = "pip install onnxruntime"

Method = Literal["minmax", "moving_average", "percentile", "entropy"]


def onnxruntime_static(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    per_channel: bool = True,
    method: Method = "minmax",
    percentile: Percent = 99.999,
    samples: Count | None = None,
    activation: Literal["uint8", "int8", "uint16", "int16"] = "uint8",
    weight: Literal["uint8", "int8"] = "int8",
    reduce_range: bool | None = None,
    symmetric_activations: bool = False,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize by onnxruntime.quantization.quantize_static, with its own calibration.

    In QDQ form; shapes stay. Costs about two inferences per sample for minmax, many times that for
    percentile and entropy, which take samples of one size alone. `reduce_range` makes weights 7
    bits wide; the default is true for a target whose sums saturate (x86 without VNNI).
    Source: the ONNX Runtime quantization guide,
    onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    reader = calibration_reader(model, calibration_samples, samples)
    has_open_size = not all(value.shape and value.shape.is_static() for value in model.graph.inputs)
    if has_open_size and method in ("percentile", "entropy"):
        reason = f"its method {method} takes samples of one size, and the network's is open"
        raise StageError(f"{WHERE}: {reason}; take minmax")
    with isolated_library(WHERE, INSTALL) as folder:
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        types = {
            "uint8": QuantType.QUInt8,
            "int8": QuantType.QInt8,
            "uint16": QuantType.QUInt16,
            "int16": QuantType.QInt16,
        }
        methods = {
            "minmax": CalibrationMethod.MinMax,
            "moving_average": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }
        separate_biases(model)
        excluded_nodes = name_excluded_nodes(model, exclude, WHERE)
        extra_options = _calibration_options(method, percentile, len(reader))
        extra_options["ActivationSymmetric"] = symmetric_activations or target.symmetric_only
        ir.save(model, folder / "float.onnx")
        quantize_static(
            folder / "float.onnx",
            folder / "quantized.onnx",
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel and not target.per_tensor_weights,
            reduce_range=target.saturates if reduce_range is None else reduce_range,
            activation_type=types[activation],
            weight_type=types[weight],
            nodes_to_exclude=excluded_nodes,
            calibrate_method=methods[method],
            extra_options=extra_options,
        )
        return read_quantized(folder / "quantized.onnx", WHERE)


def _calibration_options(method: Method, percentile: float, count: int) -> dict[str, Any]:
    if method == "minmax":
        return {}
    if method == "moving_average":
        return {"CalibMovingAverage": True}
    options: dict[str, Any] = {"CalibStridedMinMax": _stride(count)}
    if method == "percentile":
        options["CalibPercentile"] = percentile
    return options


def _stride(count: int) -> int:
    """Return the largest number of samples that divides `count`, as the quantizer requires."""
    strides = range(min(MAX_STRIDE, count), 0, -1)
    return next(stride for stride in strides if count % stride == 0)
