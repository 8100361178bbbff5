"""Neural Compressor's static quantizer for ONNX, to compare with."""

from __future__ import annotations

from typing import Any, Literal

import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Share
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import (
    calibration_reader,
    isolated_library,
    name_excluded_nodes,
    read_quantized,
    separate_biases,
)

WHERE = "quantize neural_compressor"
# it requires numpy below 2, though it runs with newer ones: pip cannot install both at once
INSTALL = (
    "pip install 'qpipe-edge[neural-compressor]', then pip install --no-deps onnx-neural-compressor"
)
NEURAL_COMPRESSOR_MODULES = {"onnx_neural_compressor": INSTALL}


def neural_compressor(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    per_channel: bool = True,
    method: Literal["minmax", "percentile", "entropy"] = "minmax",
    activation: Literal["uint8", "int8"] = "uint8",
    weight: Literal["uint8", "int8"] = "int8",
    reduce_range: bool | None = None,
    smooth: Share | None = None,
    samples: Count | None = None,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize by onnx_neural_compressor's static quantization (by Intel); it is an extra.

    In QDQ form; shapes stay. Costs about three inferences per sample. `smooth` is the strength
    alpha of SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), which is off without it.
    `reduce_range` makes weights 7 bits wide; the default is true for a target whose sums saturate
    (x86 without VNNI).
    Source: github.com/onnx/neural-compressor.
    """
    reader = calibration_reader(model, calibration_samples, samples)
    with isolated_library(WHERE, INSTALL) as folder:
        from onnx_neural_compressor.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            config,
            quantize,
        )

        types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
        methods = {
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }
        separate_biases(model)
        excluded_nodes = name_excluded_nodes(model, exclude, WHERE)
        extra_options: dict[str, Any] = {}
        if smooth is not None:
            extra_options["SmoothQuant"] = True
            extra_options["SmoothQuantAlpha"] = smooth
            extra_options["SmoothQuantCalibIter"] = len(reader)
        options = config.StaticQuantConfig(
            calibration_data_reader=reader,
            calibrate_method=methods[method],
            quant_format=QuantFormat.QDQ,
            activation_type=types[activation],
            weight_type=types[weight],
            per_channel=per_channel and not target.per_tensor_weights,
            reduce_range=target.saturates if reduce_range is None else reduce_range,
            nodes_to_exclude=excluded_nodes,
            calibration_sampling_size=len(reader),
            execution_provider="CPUExecutionProvider",
            extra_options=extra_options,
        )
        ir.save(model, folder / "float.onnx")
        quantize(str(folder / "float.onnx"), str(folder / "quantized.onnx"), options)
        return read_quantized(folder / "quantized.onnx", WHERE)
