"""NNCF's post-training quantizer, to compare with."""

from __future__ import annotations

import os
from typing import Literal

import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import (
    calibration_reader,
    isolated_library,
    name_excluded_nodes,
    read_quantized,
)

WHERE = "quantize nncf"
INSTALL = "pip install 'qpipe-edge[nncf]'"
NNCF_MODULES = {"nncf": INSTALL}
# without these it reports each call to its makers, and counts them in a file in the home folder
NO_TELEMETRY = {"NNCF_CI": "1", "CI": "true"}


def nncf(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    preset: Literal["performance", "mixed"] = "mixed",
    bias_correction: Literal["fast", "accurate", "none"] = "fast",
    granularity: Literal["tensor", "channel"] = "channel",
    activations: Literal["tensor", "channel"] = "tensor",
    channel_alignment: bool = False,
    transformer: bool = False,
    samples: Count | None = None,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize by nncf.quantize, the quantizer of OpenVINO; nncf is an extra.

    In its QDQ form; shapes stay. Takes seconds, with accurate bias correction many times that.
    `preset` is about activations: performance makes them symmetric, mixed gives them a zero point.
    `granularity` is that of weights, `activations` that of activations: per channel (what NNCF
    does with depthwise layers by default) is more exact, but no integer kernel of ONNX Runtime
    takes it. `channel_alignment` is NNCF's equalization.
    Source: github.com/openvinotoolkit/nncf.
    """
    reader = calibration_reader(model, calibration_samples, samples)
    with isolated_library(WHERE, INSTALL):
        os.environ.update(NO_TELEMETRY)
        import nncf as library
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
            QuantizationParameters,
        )

        per_tensor = QuantizationParameters(per_channel=False)
        has_per_tensor_weights = granularity == "tensor" or target.per_tensor_weights
        advanced_parameters = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if target.saturates else OverflowFix.DISABLE,
            disable_bias_correction=bias_correction == "none",
            disable_channel_alignment=not channel_alignment,
            activations_quantization_params=per_tensor if activations == "tensor" else None,
            weights_quantization_params=per_tensor if has_per_tensor_weights else None,
        )
        excluded_nodes = name_excluded_nodes(model, exclude, WHERE)
        quantized = library.quantize(
            ir.to_proto(model),
            library.Dataset(range(len(reader)), reader.feed),
            preset=library.QuantizationPreset("performance" if target.symmetric_only else preset),
            subset_size=len(reader),
            fast_bias_correction=bias_correction != "accurate",
            model_type=library.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=library.IgnoredScope(names=excluded_nodes) if excluded_nodes else None,
            advanced_parameters=advanced_parameters,
        )
        return read_quantized(quantized, WHERE)
