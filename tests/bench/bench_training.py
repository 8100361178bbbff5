"""What training brings the shipped detector: scores of the network that comes in, and of the trained one.

python tests/bench/bench_training.py SCHEME [NAME=VALUE ...]

SCHEME is pot (powers of two, 4 bits), bits3 or apot3 (3 bits, uniform or sums of powers of two), w4a4 (4 bits, activations
that layers multiply too) or int8-tensor (8 bits, one scale a tensor), each in every layer. The values are options of `qat` (YAML); scenes, how many are scored; and calibration, how many to calibrate with
and to train on. Networks are simulated operator by operator, so that no processor makes a difference.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import yaml

from qpipe.quant.inference import inferences, open_session
from qpipe.quant.sensitivity import decibels, relative_noise
from qpipe.quant.statistics import Statistics
from qpipe.quant.training_curve import training_curve
from qpipe.samples.store import Samples
from qpipe.types import Array
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.postprocess.ssd_boxes import ssd_boxes
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.qat import qat
from qpipe_plugins.quantize.symmetric import symmetric
from qpipe_plugins.samples.scenes import scenes
from qpipe_plugins.transform.equalize import equalize

NETWORK = Path(__file__).parents[2] / "recipes" / "models" / "mobilenet_ssd.onnx"
CALIBRATION = 256
SCENES = 500


def w4a4(model: ir.Model, statistics: Statistics) -> ir.Model:
    """Weights and the activations that layers multiply at 4 bits."""
    model = symmetric(model, statistics, bits=4, activation_range="none")
    return activations(model, statistics, activation_range="mse", bits=4)


SCHEMES: dict[str, Callable[..., ir.Model]] = {
    "pot": partial(logarithmic, bits_first=4, bits_depthwise=4),
    "bits3": partial(symmetric, bits=3),
    "apot3": partial(logarithmic, levels="apot", bits=3, bits_first=3, bits_depthwise=3),
    "w4a4": w4a4,
    "int8-tensor": partial(symmetric, granularity="tensor"),
}
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
    parts = [
        decibels(relative_noise(kept(reference, names), kept(outputs, names)))
        for names in (["boxes"], ["scores"], ["boxes", "scores"])
    ]
    noise = ", ".join(f"{part:.2f}" for part in parts)
    return f"| {name} | {metric.reduce(contributions):.4f} | {noise} |"


def kept(outputs: Outputs, names: list[str]) -> Outputs:
    """Some of the outputs for each sample."""
    return [{name: one[name] for name in names} for one in outputs]


@dataclass(frozen=True)
class Trial:
    """A quantized network to train, with what training needs, and scenes to score it on."""

    folder: Path
    start: ir.Model
    calibration: Samples
    evaluation: Samples
    reference: Outputs

    def float_network(self) -> ir.Model:
        """The teacher, read anew."""
        return ir.load(self.folder / "float.onnx")

    def score(self, name: str, model: ir.Model) -> str:
        """A row of the table for a network."""
        outputs = outputs_of(model, self.evaluation)
        return score(name, outputs, self.reference, self.evaluation)

    def train(self, **options: Any) -> ir.Model:
        """The network, trained from its start."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            start = ir.from_proto(ir.to_proto(self.start))
            network = self.float_network()
            return qat(start, network, self.calibration, Path(name), quiet, **options)


def prepare(folder: Path, scheme: str, *, scenes_to_score: int, calibration_count: int) -> Trial:
    """The detector, quantized by a scheme and compensated."""
    data = scenes(calibration_count=calibration_count, evaluation_count=scenes_to_score)
    calibration = Samples.write(folder / "calibration", data.calibration, data.preprocessing)
    evaluation = Samples.write(folder / "evaluation", data.evaluation, data.preprocessing)
    ir.save(equalize(onnx_file(path=NETWORK), calibration, quiet), folder / "float.onnx")
    statistics = histogram(ir.load(folder / "float.onnx"), calibration, quiet)
    start = SCHEMES[scheme](ir.load(folder / "float.onnx"), statistics)
    network = ir.load(folder / "float.onnx")
    start = compensate(start, network, calibration, folder, quiet)
    reference = outputs_of(ir.load(folder / "float.onnx"), evaluation)
    return Trial(folder, start, calibration, evaluation, reference)


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCHEMES:
        sys.exit(__doc__)
    options = dict(setting.split("=", 1) for setting in sys.argv[2:])
    values = {name: yaml.safe_load(text) for name, text in options.items()}
    with tempfile.TemporaryDirectory() as name:
        trial = prepare(
            Path(name),
            sys.argv[1],
            scenes_to_score=values.pop("scenes", SCENES),
            calibration_count=values.pop("calibration", CALIBRATION),
        )
        print("| network | map50 | SQNR dB: boxes, scores, both |\n|---|---|---|")
        print(score("float", trial.reference, trial.reference, trial.evaluation), flush=True)
        print(trial.score("compensate", trial.start), flush=True)
        seconds = time.process_time()
        trained = trial.train(**values)
        seconds = time.process_time() - seconds
        print(trial.score("qat", trained))
        steps = json.loads(training_curve(trained) or "[]")[-1][0]
        print(f"{steps} steps, {seconds:.0f} s of CPU to train")


if __name__ == "__main__":
    main()
