"""What the tests of stages that train share: a small network, quantized to 4 bits, and samples for it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from models import conv_net, images, run, statistics_of
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import ANY_TARGET, Preprocessing, Sample, Target
from qpipe_plugins.quantize.logarithmic import logarithmic

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="needs torch: pip install 'qpipe-edge[train]'",
)
CALIBRATION = images(24, seed=1)
EVALUATION = images(16, seed=2)


def quiet(done: float, total: float | None = None, unit: str = "") -> None:
    pass


@cache
def statistics() -> Statistics:
    return statistics_of(conv_net(), CALIBRATION)


def written(folder: Path, arrays: list[np.ndarray], layout: str = "none") -> Samples:
    stored = (Sample(str(index), {"image": array}) for index, array in enumerate(arrays))
    return Samples.write(folder, stored, {"image": Preprocessing(layout=layout)})


def start(target: Target = ANY_TARGET) -> ir.Model:
    return logarithmic(
        conv_net(), statistics(), target, bits_first=4, bits_depthwise=4, levels="apot"
    )


def noise_db(model: ir.Model) -> float:
    exact, actual = (
        np.concatenate([one["logits"] for one in run(network, EVALUATION)])
        for network in (conv_net(), model)
    )
    return sqnr_db(exact, actual)
