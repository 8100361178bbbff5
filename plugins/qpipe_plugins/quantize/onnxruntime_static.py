"""ONNX Runtime's own static quantizer, to compare with."""

from __future__ import annotations

from typing import Any, Literal

import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import contained, excluded, read, reader

STRIDE = 8  # samples whose activations its histograms hold in memory at once
WHERE = "quantize onnxruntime_static"


def onnxruntime_static(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    per_channel: bool = True,
    method: Literal["minmax", "moving_average", "percentile", "entropy"] = "minmax",
    percentile: Percent = 99.999,
    samples: Count | None = None,
    activation: Literal["uint8", "int8", "uint16", "int16"] = "uint8",
    weight: Literal["uint8", "int8"] = "int8",
    reduce_range: bool | None = None,
    symmetric_activations: bool = False,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize by onnxruntime.quantization.quantize_static, in QDQ form, calibrating by its own means.

    Costs about two inferences per sample for minmax, many times that for percentile and entropy.
    `reduce_range` makes weights 7 bits wide; unless said, for a target whose sums saturate (x86 without VNNI).
    """
    feed = reader(model, calibration_samples, samples)
    with contained(WHERE, "pip install onnxruntime") as folder:
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
        nodes = excluded(model, exclude, WHERE)
        extra: dict[str, Any] = {
            "ActivationSymmetric": symmetric_activations or target.symmetric_only
        }
        if method == "moving_average":
            extra["CalibMovingAverage"] = True
        elif method != "minmax":
            extra["CalibStridedMinMax"] = _stride(len(feed))
        if method == "percentile":
            extra["CalibPercentile"] = percentile
        ir.save(model, folder / "float.onnx")
        quantize_static(
            folder / "float.onnx",
            folder / "quantized.onnx",
            feed,
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel and not target.per_tensor_weights,
            reduce_range=target.saturates if reduce_range is None else reduce_range,
            activation_type=types[activation],
            weight_type=types[weight],
            nodes_to_exclude=nodes,
            calibrate_method=methods[method],
            extra_options=extra,
        )
        return read(folder / "quantized.onnx", WHERE)


def _stride(count: int) -> int:
    """The largest number of samples that divides all of them, as the quantizer demands."""
    return next(stride for stride in range(min(STRIDE, count), 0, -1) if count % stride == 0)
