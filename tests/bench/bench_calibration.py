"""Time and peak memory of the histogram calibration against ONNX Runtime's MinMax: run by hand.

    python tests/bench/bench_calibration.py MODEL FOLDER

FOLDER holds images as the network takes them (its inputs are fed as pixels / 127.5 - 1). Each case is a fresh process;
both read and preprocess the same stored samples by the same code.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from qpipe.quant.ranges import Method, activation_range
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import Array, Preprocessing, Sample


class Reader:
    """What ONNX Runtime's calibration reads from."""

    def __init__(self, samples: Samples, names: list[str]) -> None:
        self.feeds: Iterator[dict[str, Array]] = (
            samples.feeds(index, names) for index in range(len(samples))
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def minmax(model: str, samples: Samples, threads: int) -> None:
    import onnxruntime
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    CalibrationDataReader.register(Reader)
    if threads:  # its sessions take no options from outside
        real = onnxruntime.SessionOptions

        def options() -> onnxruntime.SessionOptions:
            chosen = real()
            chosen.intra_op_num_threads = threads
            return chosen

        onnxruntime.SessionOptions = options
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            model,
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=CalibrationMethod.MinMax,
        )
        names = [value.name for value in calibrator.infer_session.get_inputs()]
        calibrator.collect_data(Reader(samples, names))
        calibrator.compute_data()


def histogram(model: str, samples: Samples, threads: int) -> Statistics:
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    from qpipe_plugins.calibrate.histogram import histogram as calibrate

    network = ir.load(model)
    ShapeInferencePass()(network)
    return calibrate(network, samples, lambda done, total=None, unit="": None, threads=threads)


def ranges(model: str, samples: Samples) -> None:
    """Seconds that each method takes to choose the ranges of all tensors."""
    statistics = histogram(model, samples, 0)
    for method in get_args(Method):
        start = time.perf_counter()
        for tensor in statistics.values():
            activation_range(tensor, method)
        print(
            f"ranges by {method}: {time.perf_counter() - start:.2f} s for {len(statistics)} tensors (at most 5)"
        )


def case(method: str, model: str, folder: str, threads: str) -> None:
    samples = Samples(Path(folder))
    if method == "ranges":
        ranges(model, samples)
        return
    start = time.perf_counter()
    {"minmax": minmax, "histogram": histogram}[method](model, samples, int(threads))
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def fresh(method: str, model: str, folder: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", method, model, folder, str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def store(images: list[Path], count: int, folder: Path) -> str:
    from PIL import Image

    def samples() -> Iterator[Sample]:
        for index in range(count):
            with Image.open(images[index % len(images)]) as image:
                yield Sample(str(index), {"image": np.asarray(image.convert("RGB"))})

    Samples.write(folder, samples(), {"image": Preprocessing((127.5,), (127.5,), "NCHW")})
    return str(folder)


def main(model: str, images_folder: str) -> None:
    images = sorted(path for path in Path(images_folder).iterdir() if path.is_file())
    with tempfile.TemporaryDirectory() as temporary:
        folders = {
            count: store(images, count, Path(temporary) / str(count)) for count in (50, 200, 500)
        }
        for threads in (1, 0):
            rounds = []
            for _ in range(3):
                runs = {
                    method: fresh(method, model, folders[200], threads)
                    for method in ("minmax", "histogram")
                }
                rounds.append(runs)
                print(f"{threads or 'default'} threads: {runs}")
            time_ratio = float(
                np.median([r["histogram"]["seconds"] / r["minmax"]["seconds"] for r in rounds])
            )
            peak_ratio = float(
                np.median([r["histogram"]["peak_mb"] / r["minmax"]["peak_mb"] for r in rounds])
            )
            print(
                f"200 samples: {time_ratio:.2f}x MinMax's time, {peak_ratio:.2f}x its peak memory"
            )
        # each in a process of its own: a child's peak memory is never below its parent's at the fork
        subprocess.run(
            [sys.executable, __file__, "--case", "ranges", model, folders[200], "0"], check=True
        )
        for method in ("minmax", "histogram"):
            peaks = {
                count: round(fresh(method, model, folders[count], 1)["peak_mb"])
                for count in folders
            }
            print(f"{method}: peak MB by number of samples {peaks}")


if __name__ == "__main__":
    case(*sys.argv[2:]) if sys.argv[1] == "--case" else main(*sys.argv[1:])
