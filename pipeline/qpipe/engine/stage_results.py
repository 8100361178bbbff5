"""What each kind gives, to a folder and back: this is what lets a step run in another process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.engine.measurement_check import plain
from qpipe.errors import PluginError
from qpipe.samples.store import Samples
from qpipe.types import Array, Build, Dataset, Measurement, Stored

MODEL = "model.onnx"
DIGESTS = "digests.json"  # of the two parts of the samples
MEASURED = ("measure", "expect")
MODELS = ("import", "transform", "quantize")


class FloatOutputs(Sequence[Mapping[str, Array]]):
    """What the float network gives for each evaluation sample, batch axis kept; lies in a folder, read lazily."""

    def __init__(self, folder: Path) -> None:
        names = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
        self.arrays = {name: np.load(folder / file, mmap_mode="r") for name, file in names.items()}

    @staticmethod
    def write(folder: Path, outputs: Mapping[str, Array]) -> None:
        """Write each output, samples along a new first axis."""
        files = {name: f"{i}.npy" for i, name in enumerate(outputs)}
        for name, file in files.items():
            np.save(folder / file, outputs[name])
        (folder / "outputs.json").write_text(json.dumps(files), encoding="utf-8")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        return {name: array[index] for name, array in self.arrays.items()}


def checked(kind: str, value: Any) -> Any:
    """What a stage of the kind gave, its numbers as Python's; PluginError where that is not what the kind gives."""
    if kind == "deploy":
        _expect(value, Stored, kind)
    elif kind in MEASURED:
        _expect(value, list, kind)
        for item in value:
            _expect(item, Measurement, kind)
        return [plain(item) for item in value]
    return value


def write(kind: str, value: Any, folder: Path) -> None:
    """Write what a stage of that kind gave; PluginError where it is not what the kind gives."""
    if kind == "samples":
        _expect(value, Dataset, kind)
        fed = value.preprocessing, value.classes
        calibration = Samples.write(folder / "calibration", value.calibration, *fed)
        evaluation = Samples.write(
            folder / "evaluation", value.evaluation, *fed, unlike=calibration
        )
        digests = {"calibration": calibration.digest, "evaluation": evaluation.digest}
        (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
    elif kind in MODELS:
        import onnx_ir as ir

        _expect(value, ir.Model, kind)
        ir.save(value, folder / MODEL)
    elif kind == "reference":
        FloatOutputs.write(folder, value)
    elif kind == "calibrate":
        if not hasattr(value, "write"):
            _expect(value, Mapping, kind)
        value.write(folder)
    elif kind == "compile":
        _expect(value, Build, kind)
        Build.read(folder)
    elif kind == "deploy":
        _expect(value, Stored, kind)
        (folder / "stored.json").write_text(json.dumps(vars(value)), encoding="utf-8")
    elif kind in MEASURED:
        text = json.dumps([measurement.to_json() for measurement in checked(kind, value)])
        (folder / "measurements.json").write_text(text, encoding="utf-8")
    else:
        raise PluginError(f"a stage of kind {kind} gives nothing that is kept")


def read(kind: str, folder: Path) -> Any:
    """Read back what `write` wrote; each reader gets a copy of its own."""
    if kind == "samples":
        return {name: Samples(folder / name) for name in ("calibration", "evaluation")}
    if kind in MODELS:
        import onnx_ir as ir

        return ir.load(folder / MODEL)
    if kind == "calibrate":
        from qpipe.quant.statistics import Statistics

        return Statistics.read(folder)
    if kind == "reference":
        return FloatOutputs(folder)
    if kind == "compile":
        return Build.read(folder)
    if kind == "deploy":
        return Stored(**json.loads((folder / "stored.json").read_text(encoding="utf-8")))
    if kind in MEASURED:
        text = (folder / "measurements.json").read_text(encoding="utf-8")
        return [Measurement(**entry) for entry in json.loads(text)]
    raise PluginError(f"there is nothing of kind {kind} to read")


def sample_digests(folder: Path) -> dict[str, str]:
    """The digests of the calibration and the evaluation samples in a folder that `write` wrote."""
    digests: dict[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    return digests


def _expect(value: Any, wanted: type, kind: str) -> None:
    if not isinstance(value, wanted):
        what = f"a {kind} stage must give {wanted.__name__}, this one gave {type(value).__name__}"
        raise PluginError(what, failure="bug")
