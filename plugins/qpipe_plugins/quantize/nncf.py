"""NNCF's post-training quantizer, to compare with."""

from __future__ import annotations

import os
from typing import Literal

import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import contained, excluded, read, reader

WHERE = "quantize nncf"
INSTALL = "pip install 'qpipe-edge[nncf]'"


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
    """Quantize by nncf.quantize (OpenVINO's quantizer), in its QDQ form; nncf is an extra.

    Takes seconds, with accurate bias correction many times that. `preset` is of activations: performance makes them
    symmetric, mixed gives them a zero point. `granularity` is of weights; `activations` per channel (NNCF's own way
    with depthwise layers) are more exact, but no integer kernel of ONNX Runtime takes them. `channel_alignment` is its
    equalization.
    """
    feed = reader(model, calibration_samples, samples)
    with contained(WHERE, INSTALL):
        # it would tell its makers of each call, and count them in a file at home
        os.environ |= {"NNCF_CI": "1", "CI": "true"}
        import nncf as library
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )
        from nncf.quantization.advanced_parameters import QuantizationParameters as Parameters

        per_tensor = granularity == "tensor" or target.per_tensor_weights
        skipped = excluded(model, exclude, WHERE)
        advanced = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if target.saturates else OverflowFix.DISABLE,
            disable_bias_correction=bias_correction == "none",
            disable_channel_alignment=not channel_alignment,
            activations_quantization_params=Parameters(per_channel=False)
            if activations == "tensor"
            else None,
            weights_quantization_params=Parameters(per_channel=False) if per_tensor else None,
        )
        quantized = library.quantize(
            ir.to_proto(model),
            library.Dataset(range(len(feed)), lambda index: feed.samples.feeds(index, feed.inputs)),
            preset=library.QuantizationPreset("performance" if target.symmetric_only else preset),
            subset_size=len(feed),
            fast_bias_correction=bias_correction != "accurate",
            model_type=library.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=library.IgnoredScope(names=skipped) if skipped else None,
            advanced_parameters=advanced,
        )
        return read(quantized, WHERE)
