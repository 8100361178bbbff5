"""AMD Quark's quantizer for ONNX, to compare with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import onnx_ir as ir
from pydantic import Field

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import (
    calibration_reader,
    isolated_library,
    name_excluded_nodes,
    read_quantized,
    separate_biases,
)

WHERE = "quantize quark"
INSTALL = "pip install 'qpipe-edge[quark]'"
QUARK_MODULES = {"quark": INSTALL}
CALIBRATION_METHODS = {
    "minmax": "MinMax",
    "percentile": "Percentile",
    "entropy": "Entropy",
    "mse": "MinMSE",
}
Rate = Annotated[float, Field(gt=0, le=10)]


def quark(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    activation: Literal["uint8", "int8", "uint16"] = "uint8",
    granularity: Literal["tensor", "channel"] = "channel",
    scales: Literal["float", "power_of_two"] = "float",
    method: Literal["minmax", "percentile", "entropy", "mse"] | None = None,
    rounding: Literal["nearest", "adaround", "adaquant"] = "nearest",
    iterations: Count = 1000,
    learning_rate: Rate | None = None,
    equalize: bool = False,
    bias_correction: bool = False,
    samples: Count | None = None,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize by quark.onnx.ModelQuantizer (by AMD), to 8-bit weights; amd-quark is an extra.

    In QDQ form; shapes stay. Takes seconds; with adaround (Nagel et al. 2020, arXiv 2004.10568) or
    adaquant (Hubara et al. 2020, arXiv 2006.10518), `iterations` per layer, minutes. `scales`
    power_of_two is Quark's XINT8, for NPUs that shift. `method` chooses the ranges: the default is
    minmax, or mse where scales are powers of two; 16-bit activations take minmax only. `equalize`
    is Quark's cross-layer equalization, which treats ReLU6 as ReLU.
    Source: quark.docs.amd.com.
    """
    reader = calibration_reader(model, calibration_samples, samples)
    with isolated_library(WHERE, INSTALL) as folder:
        from quark import onnx as library
        from quark.onnx.quantization.config import spec

        has_shift_scales = scales == "power_of_two" or target.power_of_two_scales
        calibration_method = method or ("mse" if has_shift_scales else "minmax")
        if (calibration_method == "mse") != has_shift_scales:
            raise StageError(
                f"{WHERE}: scales power_of_two go with method mse, and no others do; "
                "leave method out"
            )
        activation_specs = {
            "uint8": spec.UInt8Spec,
            "int8": spec.Int8Spec,
            "uint16": spec.UInt16Spec,
        }
        common = {
            "scale_type": spec.ScaleType.PowerOf2 if has_shift_scales else spec.ScaleType.Float32,
            "calibration_method": spec.CalibMethod[CALIBRATION_METHODS[calibration_method]],
        }
        weight_granularity = spec.QuantGranularity.Channel
        if granularity == "tensor" or target.per_tensor_weights or has_shift_scales:
            weight_granularity = spec.QuantGranularity.Tensor
        tuning: dict[str, Any] = {"num_iterations": iterations}
        if learning_rate is not None:
            tuning["learning_rate"] = learning_rate
        algorithms: list[Any] = []
        if equalize:
            algorithms.append(library.CLEConfig())
        if bias_correction:
            algorithms.append(library.BiasCorrectionConfig())
        if rounding == "adaround":
            algorithms.append(library.AdaRoundConfig(**tuning))
        if rounding == "adaquant":
            algorithms.append(library.AdaQuantConfig(**tuning))
        separate_biases(model)
        excluded_nodes = name_excluded_nodes(model, exclude, WHERE)
        config = library.QConfig(
            global_config=library.QLayerConfig(
                activation=activation_specs[activation](
                    symmetric=target.symmetric_only or has_shift_scales, **common
                ),
                weight=spec.Int8Spec(
                    symmetric=True, quant_granularity=weight_granularity, **common
                ),
            ),
            exclude=excluded_nodes,
            algo_config=algorithms,
        )
        ir.save(model, folder / "float.onnx")
        library.ModelQuantizer(config).quantize_model(
            str(folder / "float.onnx"), str(folder / "quantized.onnx"), reader
        )
        return read_quantized(folder / "quantized.onnx", WHERE)
