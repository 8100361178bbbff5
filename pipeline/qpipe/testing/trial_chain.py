"""A small network on its way through stages, each carried out as a run carries it out.

The network has what makes quantization hard in the small: a strided convolution, a depthwise one,
ReLU6, a sum of two branches, a mean over the picture and a fully connected layer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.engine import cache_keys, stage_results
from qpipe.engine.host_step import ResultFolder, StepInputs, run_stage
from qpipe.engine.worker import StepRequest, run_in_worker
from qpipe.samples.store import Samples
from qpipe.stages.options import needs
from qpipe.stages.registry import Registry, Stage
from qpipe.testing.checks import NonconformityError
from qpipe.types import ANY_TARGET, Array, Build, Dataset, Platform, Preprocessing, Sample

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
trial (float[1, 3, 12, 12] image) => (float[1, 6] scores)
<float zero = {0.0}, float six = {6.0}>
{
  [stem] wide = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, stem_weight, stem_bias)
  wide_clipped = Clip (wide, zero, six)
  [depthwise] deep = Conv <group = 8, pads = [1, 1, 1, 1]> (wide_clipped, depthwise_weight)
  deep_clipped = Clip (deep, zero, six)
  [pointwise] mixed = Conv (deep_clipped, pointwise_weight, pointwise_bias)
  [branches] joined = Add (mixed, wide_clipped)
  mean = GlobalAveragePool (joined)
  features = Flatten <axis = 1> (mean)
  [head] scores = Gemm <transB = 1> (features, head_weight, head_bias)
}
"""
SHAPES = {
    "stem_weight": (8, 3, 3, 3),
    "stem_bias": (8,),
    "depthwise_weight": (8, 1, 3, 3),
    "pointwise_weight": (8, 8, 1, 1),
    "pointwise_bias": (8,),
    "head_weight": (6, 8),
    "head_bias": (6,),
}
SAMPLE_COUNT = 6  # of each kind
PARTS = ("calibration", "evaluation")
# what the engine passes to a stage besides results of steps
ENGINE_VALUES = ("progress", "workdir", "target", "platform")


class TrialChain:
    """The results of steps so far, each in a folder; stages change the network that comes next."""

    def __init__(self, plugins: Registry, folder: Path) -> None:
        self.plugins = plugins
        self.folder = folder
        self.count = 0
        imported = ResultFolder("import", self._new_folder("import"))
        stage_results.write("import", trial_network(), imported.folder)
        samples = ResultFolder("samples", self._new_folder("samples"))
        stage_results.write("samples", trial_dataset(), samples.folder)
        self.results = {
            "original": imported,
            "model": imported,
            "float_model": imported,
            "calibration_samples": samples,
            "evaluation_samples": samples,
        }

    def apply(
        self, stage: Stage, options: Mapping[str, Any] | None = None, *, elsewhere: bool = False
    ) -> ir.Model:
        """Let a stage make the next network of the chain, and return it.

        The float network after a transform is what it made. `elsewhere` as for `run`.
        """
        result = self.run(stage, options or {}, elsewhere=elsewhere)
        self.results["model"] = result
        if stage.kind == "transform":
            self.results["float_model"] = result
        return self.model

    def apply_built_in(self, kind: str, name: str, **options: Any) -> ir.Model:
        """Let a stage of qpipe's own make the next network, and return it."""
        stage = self.plugins.stage(kind, name)
        return self.apply(stage, resolved_options(stage, options))

    def compile(
        self,
        stage: Stage | None = None,
        options: Mapping[str, Any] | None = None,
        platform: Platform | None = None,
    ) -> Build:
        """Return the build of the network so far, by default for ONNX Runtime."""
        stage = stage or self.plugins.stage("compile", "onnxruntime")
        result = self.run(stage, resolved_options(stage, options or {}), platform)
        return Build.read(result.folder)

    def run(
        self,
        stage: Stage,
        options: Mapping[str, Any],
        platform: Platform | None = None,
        *,
        elsewhere: bool = False,
    ) -> ResultFolder:
        """Call a stage with what it needs, as a run does, and return the folder of its result.

        `elsewhere` calls it in another process, where sets of texts have another order. Raise
        NonconformityError where it needs what no step gives, or changes what it was given.
        """
        results = self._results_for(stage)
        before = {name: cache_keys.digest(result.folder) for name, result in results.items()}
        out = self._new_folder(stage.kind)
        inputs = StepInputs(results, ANY_TARGET, platform or Platform())
        workdir = self._new_folder("workdir")
        if elsewhere:
            run_elsewhere(stage, options, inputs, workdir=workdir, out=out)
        else:
            run_stage(stage, options, inputs, workdir=workdir, out=out, progress=no_progress)
        for name, result in results.items():
            if cache_keys.digest(result.folder) != before[name]:
                raise NonconformityError(f"it changes the files of its {name}")
        return ResultFolder(stage.kind, out)

    @property
    def model(self) -> ir.Model:
        """The network so far: a copy of the caller's own."""
        return self._read("model")

    @property
    def float_model(self) -> ir.Model:
        """The float network, after the transforms so far."""
        return self._read("float_model")

    @property
    def samples(self) -> Samples:
        """The samples to evaluate on."""
        return Samples(self.results["evaluation_samples"].folder / "evaluation")

    def _read(self, name: str) -> ir.Model:
        result = self.results[name]
        model: ir.Model = stage_results.read(result.kind, result.folder)
        return model

    def _results_for(self, stage: Stage) -> dict[str, ResultFolder]:
        needed = [name for name in needs(stage.function) if name not in ENGINE_VALUES]
        results = dict(self.results)
        if "statistics" in needed:
            results["statistics"] = self._statistics()
        for name in needed:
            if name not in results:
                there_is = ", ".join([*results, *ENGINE_VALUES])
                problem = f"it needs '{name}', which no step gives; there is {there_is}"
                raise NonconformityError(problem)
        return {name: results[name] for name in needed}

    def _statistics(self) -> ResultFolder:
        """Calibrate the float network of the chain."""
        stage = self.plugins.stage("calibrate", "histogram")
        results = {
            "model": self.results["float_model"],
            "calibration_samples": self.results["calibration_samples"],
        }
        out = self._new_folder("calibrate")
        run_stage(
            stage,
            resolved_options(stage, {}),
            StepInputs(results),
            workdir=out,
            out=out,
            progress=no_progress,
        )
        return ResultFolder("calibrate", out)

    def _new_folder(self, name: str) -> Path:
        self.count += 1
        folder = self.folder / f"{self.count}-{name}"
        folder.mkdir(parents=True)
        return folder


def run_elsewhere(
    stage: Stage, options: Mapping[str, Any], inputs: StepInputs, *, workdir: Path, out: Path
) -> None:
    """Call a stage in a process of its own; raise StageError with the reason where it fails."""
    plugin = sys.modules.get(stage.plugin)
    file = Path(str(getattr(plugin, "__file__", "")))
    request = StepRequest(
        step="trial",
        kind=stage.kind,
        stage=stage.name,
        options=options,
        inputs=inputs,
        out=out,
        log=workdir / "log",
        plugins=[file] if file.name == stage.distribution else [],
    )
    run_in_worker(request, no_progress, lambda: False)


def resolved_options(stage: Stage, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a stage that takes no other stages, with the defaults filled in."""
    from qpipe.stages.options import check

    return check(stage.function, options, f"{stage.kind} {stage.name}")


def trial_network() -> ir.Model:
    """Return the network, its weights the same every time, with the shapes of all tensors."""
    network = onnx.parser.parse_model(NETWORK)
    for name, array in _weights().items():
        network.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(network))


@cache
def _weights() -> Mapping[str, Array]:
    random = np.random.default_rng(11)
    return {name: random.normal(0, 0.5, shape).astype("f4") for name, shape in SHAPES.items()}


def trial_dataset() -> Dataset:
    """Return random pictures, and a label for each."""
    random = np.random.default_rng(12)
    samples = {}
    for part in PARTS:
        samples[part] = [
            Sample(f"{part}-{number}", {"image": _draw(random)}, number % SHAPES["head_bias"][0])
            for number in range(SAMPLE_COUNT)
        ]
    return Dataset(
        samples["calibration"],
        samples["evaluation"],
        {"image": Preprocessing((127.5,), (64.0,), "NCHW")},
    )


def _draw(random: np.random.Generator) -> Array:
    return random.integers(0, 256, (12, 12, 3), np.uint8)


def no_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Take the progress of a stage, which nobody looks at here."""
