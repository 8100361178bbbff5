"""ONNX Runtime's own static quantizer, to compare with."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.samples import Samples
from qpipe.types import ANY_TARGET, Array, Target

STRIDE = 8  # samples whose activations its histograms hold in memory at once


def onnxruntime_static(
    model: ir.Model,
    calibration_samples: Samples,
    target: Target = ANY_TARGET,
    *,
    per_channel: bool = True,
    method: Literal["minmax", "percentile", "entropy"] = "minmax",
    percentile: float = 99.999,
    samples: int | None = None,
    activation: Literal["uint8", "int8"] = "uint8",
    weight: Literal["uint8", "int8"] = "int8",
    reduce_range: bool | None = None,
) -> ir.Model:
    """Quantize by onnxruntime.quantization.quantize_static, in QDQ form, calibrating by its own means.

    Costs about two inferences per sample for minmax, many times that for percentile and entropy. `reduce_range` makes
    weights 7 bits wide; unless said, for a target whose sums saturate (x86 without VNNI).
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    count = len(calibration_samples) if samples is None else min(samples, len(calibration_samples))
    inputs = [value.name for value in model.graph.inputs if value.name]
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    extra: dict[str, float] = {} if method == "minmax" else {"CalibStridedMinMax": _stride(count)}
    if method == "percentile":
        extra["CalibPercentile"] = percentile
    with tempfile.TemporaryDirectory() as temporary:
        source, result = Path(temporary, "float.onnx"), Path(temporary, "quantized.onnx")
        ir.save(model, source)
        try:
            with _quiet():
                quantize_static(
                    source,
                    result,
                    _reader(calibration_samples, inputs, count),
                    quant_format=QuantFormat.QDQ,
                    per_channel=per_channel,
                    reduce_range=target.saturates if reduce_range is None else reduce_range,
                    activation_type=types[activation],
                    weight_type=types[weight],
                    calibrate_method=methods[method],
                    extra_options=extra,
                )
        except Exception as error:  # foreign code: whatever it raises is about this network
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StageError(f"onnxruntime_static: its quantizer failed: {reason}; leave this scheme out") from error
        return ir.load(result)


def _stride(count: int) -> int:
    """The largest number of samples that divides all of them, as the quantizer demands."""
    return next(stride for stride in range(min(STRIDE, count), 0, -1) if count % stride == 0)


def _reader(samples: Samples, inputs: list[str], count: int) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, count)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.feeds: Iterator[dict[str, Array]] = (samples.feeds(i, inputs) for i in range(start_index, end_index))

        def __len__(self) -> int:
            return count

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    # it prints, and logs on the root logger, what is nobody's concern here
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
