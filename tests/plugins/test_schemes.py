"""Int8 of qpipe beside ONNX Runtime's own, on every network of `networks`: worse is a bug."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import networks
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.models.onnx_file import onnx_file
from scheme_sqnr import scheme_sqnr

CHANCE = 0.5  # dB: which of two roundings is nearer is chance within these
# ONNX Runtime's quantizer fails at a weight on the left
REFUSED = ("products",)


def written(folder: Path, name: str, count: int, seed: int) -> Samples:
    feeds = networks.feeds(name, count, seed)
    how = {key: Preprocessing(dtype=array.dtype.name) for key, array in feeds[0].items()}
    stream = (
        Sample(str(number), {key: array[0] for key, array in each.items()})
        for number, each in enumerate(feeds)
    )
    return Samples.write(folder, stream, how)


@pytest.mark.lab
@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name not in REFUSED])
def test_int8_is_as_near_to_float_as_that_of_onnxruntime(name: str, tmp_path: Path) -> None:
    onnx.save(networks.NETWORKS[name](), tmp_path / "net.onnx")

    def load() -> ir.Model:
        return onnx_file(path=tmp_path / "net.onnx", shapes=networks.SHAPES.get(name))

    found = scheme_sqnr(
        load,
        written(tmp_path / "calibration", name, 32, seed=1),
        written(tmp_path / "evaluation", name, 24, seed=2),
        tmp_path,
    )
    assert found["int8-channel"] > found["onnxruntime"] - CHANCE
    assert found["int8-compensated"] > found["onnxruntime"] - CHANCE
