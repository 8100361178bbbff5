"""AMD Quark's quantizer for ONNX, to compare with."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

import onnx_ir as ir
from pydantic import Field

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.external_quantizer import contained, excluded, read, reader

WHERE = "quantize quark"
INSTALL = "pip install 'qpipe-edge[quark]'"
log = logging.getLogger(__name__)
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
    """Quantize by quark.onnx.ModelQuantizer (AMD's): 8-bit weights, in QDQ form; amd-quark is an extra.

    Takes seconds, with adaround or adaquant (`iterations` a layer) minutes. `scales` power_of_two is its XINT8, for
    NPUs that shift. `method` chooses the ranges: minmax, or mse where scales are powers of two, unless said; minmax is
    all that 16-bit activations take. `equalize` is its cross-layer equalization, which takes ReLU6 for ReLU.
    """
    feed = reader(model, calibration_samples, samples)
    with contained(WHERE, INSTALL) as folder:
        from quark import onnx as library
        from quark.onnx.quantization.config import spec

        shifts = scales == "power_of_two" or target.power_of_two_scales
        chosen = method or ("mse" if shifts else "minmax")
        names = {
            "minmax": "MinMax",
            "percentile": "Percentile",
            "entropy": "Entropy",
            "mse": "MinMSE",
        }
        if (chosen == "mse") != shifts:
            raise StageError(
                f"{WHERE}: it has method mse for scales power_of_two, and no other there; leave method out"
            )
        kinds = {"uint8": spec.UInt8Spec, "int8": spec.Int8Spec, "uint16": spec.UInt16Spec}
        common = {
            "scale_type": spec.ScaleType.PowerOf2 if shifts else spec.ScaleType.Float32,
            "calibration_method": spec.CalibMethod[names[chosen]],
        }
        per_tensor = granularity == "tensor" or target.per_tensor_weights or shifts
        grain = spec.QuantGranularity.Tensor if per_tensor else spec.QuantGranularity.Channel
        tuning: dict[str, Any] = {"num_iterations": iterations}
        tuning |= {} if learning_rate is None else {"learning_rate": learning_rate}
        algorithms: list[Any] = [library.CLEConfig()] if equalize else []
        algorithms += [library.BiasCorrectionConfig()] if bias_correction else []
        algorithms += [library.AdaRoundConfig(**tuning)] if rounding == "adaround" else []
        algorithms += [library.AdaQuantConfig(**tuning)] if rounding == "adaquant" else []
        if target.saturates:
            log.warning(
                "%s: it has no weights of 7 bits, which the target's sums need to be exact", WHERE
            )
        nodes = excluded(model, exclude, WHERE)
        config = library.QConfig(
            global_config=library.QLayerConfig(
                activation=kinds[activation](symmetric=target.symmetric_only or shifts, **common),
                weight=spec.Int8Spec(symmetric=True, quant_granularity=grain, **common),
            ),
            exclude=nodes,
            algo_config=algorithms,
        )
        ir.save(model, folder / "float.onnx")
        library.ModelQuantizer(config).quantize_model(
            str(folder / "float.onnx"), str(folder / "quantized.onnx"), feed
        )
        return read(folder / "quantized.onnx", WHERE)
