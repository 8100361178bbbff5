"""What training brings the shipped detector: scores of the network that comes in, and of the trained one.

python tests/bench/bench_training.py SCHEME [NAME=VALUE ...]

SCHEME is pot (powers of two, 4 bits, every layer) or bits3 (uniform, 3 bits, every layer); the values are options of
`qat` (YAML), and scenes, how many are scored. Networks are simulated operator by operator, so that no processor makes
a difference.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import onnx_ir as ir
import yaml

from qpipe.quant.inference import inferences, open_session
from qpipe.quant.sensitivity import decibels, relative_noise
from qpipe.samples.store import Samples
from qpipe.types import Array
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.postprocess.ssd_boxes import ssd_boxes
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.qat import qat
from qpipe_plugins.quantize.symmetric import symmetric
from qpipe_plugins.samples.scenes import scenes
from qpipe_plugins.transform.equalize import equalize

NETWORK = Path(__file__).parents[2] / "recipes" / "models" / "mobilenet_ssd.onnx"
CALIBRATION = 256
SCENES = 500
SCHEMES = ("pot", "bits3")
Outputs = list[dict[str, Array]]


def quiet(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


def outputs_of(model: ir.Model, samples: Samples) -> Outputs:
    """The outputs for each sample."""
    return [dict(one) for one in inferences(open_session(model, optimize=False), samples)]


def score(name: str, outputs: Outputs, reference: Outputs, samples: Samples) -> str:
    """A row of the table."""
    metric = coco_map()
    contributions = [
        metric.contribution(ssd_boxes(one), sample.target)
        for one, sample in zip(outputs, samples, strict=True)
    ]
    noise = decibels(relative_noise(reference, outputs))
    return f"| {name} | {metric.reduce(contributions):.4f} | {noise:.2f} |"


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCHEMES:
        sys.exit(__doc__)
    options = dict(setting.split("=", 1) for setting in sys.argv[2:])
    values = {name: yaml.safe_load(text) for name, text in options.items()}
    data = scenes(calibration_count=CALIBRATION, evaluation_count=values.pop("scenes", SCENES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = Samples.write(folder / "calibration", data.calibration, data.preprocessing)
        evaluation = Samples.write(folder / "evaluation", data.evaluation, data.preprocessing)
        equal = equalize(onnx_file(path=NETWORK), calibration, quiet)
        ir.save(equal, folder / "float.onnx")
        statistics = histogram(ir.load(folder / "float.onnx"), calibration, quiet)
        network = ir.load(folder / "float.onnx")
        if sys.argv[1] == "pot":
            start = logarithmic(network, statistics, bits_first=4, bits_depthwise=4)
        else:
            start = symmetric(network, statistics, bits=3)
        start = compensate(start, ir.load(folder / "float.onnx"), calibration, folder, quiet)
        reference = outputs_of(ir.load(folder / "float.onnx"), evaluation)
        print("| network | map50 | SQNR dB |\n|---|---|---|")
        print(score("float", reference, reference, evaluation), flush=True)
        print(score("compensate", outputs_of(start, evaluation), reference, evaluation), flush=True)
        seconds = time.process_time()
        trained = qat(start, ir.load(folder / "float.onnx"), calibration, folder, quiet, **values)
        seconds = time.process_time() - seconds
        print(score("qat", outputs_of(trained, evaluation), reference, evaluation))
        print(f"{seconds:.0f} s of CPU to train")


if __name__ == "__main__":
    main()
