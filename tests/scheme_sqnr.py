"""What schemes leave of a network's outputs on samples that none of them saw, in dB, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import onnx_ir as ir

from qpipe.quant.inference import InferenceError, inferences, open_session
from qpipe.quant.sensitivity import decibels, relative_noise
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import ANY_TARGET, Array
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.float_layers import UnreachableFloorError
from qpipe_plugins.quantize.mixed import mixed
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric

FLOOR = 30.0  # dB
Load = Callable[[], ir.Model]


def quiet(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


def scheme_networks(
    load: Load, calibration: Samples, workdir: Path
) -> Iterator[tuple[str, ir.Model]]:
    """The network of each scheme, by its name; a floor that nothing but float reaches has none."""
    statistics = histogram(load(), calibration, quiet)
    yield "int8-channel", symmetric(load(), statistics)
    ranged = symmetric(load(), statistics, ANY_TARGET, calibration, activation_range="mse")
    yield "int8-compensated", compensate(ranged, load(), calibration, workdir, quiet)
    with suppress(UnreachableFloorError):
        yield "int8-floor", _floor(load, statistics, calibration, workdir)
    yield "onnxruntime", onnxruntime_static(load(), calibration)


def scheme_sqnr(
    load: Load, calibration: Samples, evaluation: Samples, workdir: Path
) -> dict[str, float]:
    """The SQNR of each scheme, simulated operator by operator, so that no processor makes a difference.

    One whose network ONNX Runtime does not load has none.
    """
    reference = _outputs(load(), evaluation)
    found: dict[str, float] = {}
    for name, network in scheme_networks(load, calibration, workdir):
        with suppress(InferenceError):
            found[name] = decibels(relative_noise(reference, _outputs(network, evaluation)))
    return found


def _floor(load: Load, statistics: Statistics, calibration: Samples, workdir: Path) -> ir.Model:
    model = mixed(
        load(), load(), statistics, calibration, workdir, quiet, bits=(8, 32), sqnr=FLOOR, samples=8
    )
    return compensate(model, load(), calibration, workdir, quiet)


def _outputs(model: ir.Model, samples: Samples) -> list[Mapping[str, Array]]:
    session = open_session(model, optimize=False)
    return [
        {name: array for name, array in outputs.items() if array.dtype.kind == "f"}
        for outputs in inferences(session, samples)
    ]
