"""qpipe on a virtual ARM64 board: setup, kernels by processor, repeatable latency, and the whole of a recipe."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from ready_board import QPIPE, Start, set_up
from virtual_board import Board

import qpipe
from qpipe_devices import local, ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
RECIPES = Path(__file__).parents[2] / "recipes"
# one integer convolution: 64 to 64 channels, 3 x 3, of 24 x 24 pixels
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 64, 24, 24] x) => (float[1, 64, 24, 24] y)
<float s, uint8 z, float sw, int8 zw, int8[64, 64, 3, 3] w>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, sw, zw)
    c = Conv <pads = [1, 1, 1, 1]> (xd, wd)
    r = Relu (c)
    rq = QuantizeLinear (r, s, z)
    y = DequantizeLinear (rq, s, z)
}
"""


def quiet(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of an integer build and of samples for it."""
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        "s": np.float32(0.02), "z": np.uint8(0), "sw": np.float32(0.01), "zw": np.int8(0),
        "w": random.integers(-63, 64, (64, 64, 3, 3), np.int8),  # 7 bits: nothing saturates on any processor
    }  # fmt: skip
    model = onnx.parser.parse_model(MODEL)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )
    (tmp_path / "build").mkdir()
    onnx.save(model, tmp_path / "build/model.onnx")
    session = {"intra_op_num_threads": 1, "graph_optimization_level": "ORT_ENABLE_ALL"}
    manifest = {
        "runtime": "onnxruntime", "runner": "run_onnxruntime.py", "model": "model.onnx",
        "options": {"session": session}, "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 64, 24, 24]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 64, 24, 24]}],
    }  # fmt: skip
    qpipe.Build.write(tmp_path / "build", manifest)
    image = random.uniform(0, 5, (64, 24, 24)).astype(np.float32)
    samples = [qpipe.Sample("one", {"x": image})]
    qpipe.Samples.write(tmp_path / "samples", samples, {"x": qpipe.Preprocessing()})
    return tmp_path / "build", tmp_path / "samples"


def opened(board: Board) -> qpipe.Device:
    options = board.options()
    places = {name: Path(options[name]) for name in ("key", "known_hosts")}
    return ssh("virtual-arm64", **{**options, **places}, connect_timeout=60)


@pytest.fixture
def device_of(request: pytest.FixtureRequest) -> Iterator[Any]:
    devices: list[qpipe.Device] = []

    def open_it(board: Board) -> qpipe.Device:
        devices.append(opened(board))
        return devices[-1]

    yield open_it
    for device in devices:
        device.close()


def test_a_board_wakes_from_its_snapshot_in_seconds(start_board: Start) -> None:
    start_board()
    began = time.monotonic()
    board = start_board()
    seconds = time.monotonic() - began
    assert board.ssh("true").returncode == 0
    assert seconds < 15  # 1.5 on an idle machine


def test_a_second_setup_sends_nothing_and_proves_it_again(
    start_board: Start, tmp_path: Path
) -> None:
    said = set_up(start_board(), tmp_path)
    assert "virtual-arm64: ready" in said
    assert " sending " not in said
    assert "equal the host's" in said


@pytest.mark.parametrize(("cpu", "has"), [("cortex-a53", False), ("cortex-a76", True)])
def test_the_processor_says_whether_it_has_the_dot_product(
    start_board: Start, device_of: Any, cpu: str, has: bool
) -> None:
    found = device_of(start_board(cpu=cpu)).capabilities()
    assert ("asimddp" in found.features) is has
    assert (found.arch, found.emulated) == ("aarch64", "wall")


def test_the_outputs_are_the_hosts_to_the_last_bit(
    start_board: Start, device_of: Any, places: tuple[Path, Path], tmp_path: Path
) -> None:
    outputs = []
    for device in (local("local", folder=tmp_path / "local"), device_of(start_board(cpu="cortex-a53")),
                   device_of(start_board(cpu="cortex-a76"))):  # fmt: skip
        (found,) = device.infer(*(device.store(place, quiet) for place in places), 1)
        outputs.append(found["y"])
        device.close()
    for other in outputs[
        1:
    ]:  # integers are integers; only the rescaling between could round a tie elsewhere
        assert np.abs(other - outputs[0]).max() <= 0.02 * 1.0001
        assert np.mean(other != outputs[0]) < 1e-3


def counted_ms(device: qpipe.Device, places: tuple[Path, Path]) -> float:
    build, samples = (device.store(place, quiet) for place in places)
    return statistics.median(
        device.round(build, samples, warmup_s=0.02, values=7, budget_s=60).values_ms
    )


def test_counted_latency_repeats_within_half_a_percent_and_dot_products_halve_it(
    start_board: Start, device_of: Any, places: tuple[Path, Path]
) -> None:
    times = {}
    for cpu in ("cortex-a53", "cortex-a76"):
        device = device_of(start_board(cpu=cpu, cores=1, counted=True))
        rounds = [counted_ms(device, places) for _ in range(3)]
        print(f"{cpu}: {', '.join(f'{each:.4f}' for each in rounds)} ms")
        assert max(rounds) / min(rounds) < 1.005
        times[cpu] = statistics.median(rounds)
    assert times["cortex-a76"] < times["cortex-a53"] / 2


def test_the_whole_recipe_runs_on_it_and_agrees_with_the_host(
    start_board: Start, tmp_path: Path
) -> None:
    text = (RECIPES / "mobilenet_ssd.yaml").read_text(encoding="utf-8")
    few = "{latency: {rounds: 2, values: 3, warmup_s: 0.02}}"  # of the chain nothing is left out
    for old, new in (("[latency, ", f"[{few}, "), (" memory,", " {memory: {rounds: 1}},"),
                     ("path: models", f"path: {RECIPES / 'models'}")):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    entry = start_board().entry("virtual-arm64")
    (tmp_path / "devices.yaml").write_text(json.dumps(entry), encoding="utf-8")

    def qpipe_(*words: str) -> str:
        command = [QPIPE, *words]
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
        ended = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=3500
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    said = qpipe_(
        "run", "recipe.yaml", "--set", "scenes=8", "--device", "virtual-arm64", "--device", "local"
    )
    assert (
        "mobilenet_ssd on virtual-arm64 (emulated: its times are the emulator's, not a device's): "
        in said
    )
    rows = {
        (row["device"], row["scheme"]): row["metrics"]
        for row in json.loads(qpipe_("pareto", "--json"))["rows"]
    }
    schemes = [scheme for device, scheme in rows if device == "virtual-arm64"]
    assert len(schemes) == 10
    assert all("latency_ms" in rows["virtual-arm64", scheme] for scheme in schemes)
    # floats are added in another order: a millionth; and some of what lies between two codes falls to the other one
    assert rows["virtual-arm64", "float32"]["sqnr_db"]["value"] > 100
    for scheme in schemes:
        there, here = (rows[device, scheme] for device in ("virtual-arm64", "local"))
        off = {name: there[name]["value"] - here[name]["value"] for name in ("map50", "sqnr_db")}
        print(
            f"{scheme}: board less host: map50 {100 * off['map50']:+.3f} points, SQNR {off['sqnr_db']:+.4f} dB"
        )
        assert abs(off["map50"]) < 0.005
        assert scheme == "float32" or abs(off["sqnr_db"]) < 0.1
