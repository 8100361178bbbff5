"""What a stage of each kind gives, written to a folder and read back.

This is what lets a step run in another process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from qpipe.engine.measurement_check import plain_measurement
from qpipe.engine.portable_call import write_decoder
from qpipe.errors import PluginError
from qpipe.samples.store import Samples
from qpipe.types import Array, Build, Dataset, Measurement, Stored

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "model.onnx"
GIVEN_KIND = "given"
GIVEN = "given.onnx"  # what a network was read from, where the import stage keeps it
DIGESTS = "digests.json"  # of the calibration and the evaluation samples
DECODER = "decoder"  # how the samples were read from files
TRAINING = "training.json"  # how training went that a network comes from
MEASUREMENTS = "measurements.json"
STORED = "stored.json"
MEASURING_KINDS = ("measure", "expect")
NETWORK_KINDS = ("import", "transform", "quantize")


class FloatOutputs(Sequence[Mapping[str, Array]]):
    """The float network's outputs for each evaluation sample, in a folder; read when indexed.

    They lie there as samples do, so that an output may have another shape for each sample.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = Samples(folder)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Array]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> Mapping[str, Array] | Sequence[Mapping[str, Array]]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.samples[index].inputs


def checked_result(kind: str, value: Any) -> Any:
    """Return what a stage on a device gave, its numbers as Python's.

    Raise PluginError where it is not what a stage of the kind has to give.
    """
    if kind == "deploy":
        _check_type(value, Stored, kind)
    if kind in MEASURING_KINDS:
        return checked_measurements(kind, value)
    return value


def checked_measurements(kind: str, value: Any) -> list[Measurement]:
    """Return measurements with Python's numbers; raise PluginError where they are not such."""
    _check_type(value, list, kind)
    for item in value:
        _check_type(item, Measurement, kind)
    return [plain_measurement(item) for item in value]


def write(kind: str, value: Any, folder: Path) -> None:
    """Write what a stage gave; raise PluginError where a stage of the kind gives something else."""
    if kind == "samples":
        _check_type(value, Dataset, kind)
        _write_samples(value, folder)
    elif kind in NETWORK_KINDS:
        import onnx_ir as ir

        _check_type(value, ir.Model, kind)
        ir.save(value, folder / MODEL)
        _write_training(value, folder)
        if kind == "import":
            _write_given(value, folder)
    elif kind == "reference":
        _check_type(value, FloatOutputs, kind)
        assert value.folder == folder  # the stage wrote it there itself, sample by sample
    elif kind == "chunks":
        _check_type(value, Samples, kind)  # the stage wrote it there itself
    elif kind == "exactness":
        pass  # the stage wrote it there itself; that there is one says that the network is exact
    elif kind == "calibrate":
        if not hasattr(value, "write"):
            _check_type(value, Mapping, kind)
        value.write(folder)
    elif kind == "compile":
        _check_type(value, Build, kind)
        Build.read(folder)  # the stage wrote it there itself
    elif kind == "deploy":
        _check_type(value, Stored, kind)
        (folder / STORED).write_text(json.dumps(vars(value)), encoding="utf-8")
    elif kind in MEASURING_KINDS:
        entries = [measurement.to_json() for measurement in checked_measurements(kind, value)]
        (folder / MEASUREMENTS).write_text(json.dumps(entries), encoding="utf-8")
    else:
        raise PluginError(f"a stage of kind {kind} gives nothing that is kept")


def read(kind: str, folder: Path) -> Any:
    """Read what `write` wrote; each reader gets a copy of its own.

    samples: a dict of Samples with calibration and evaluation. The other kinds give the type that
    `write` takes.
    """
    if kind == "samples":
        return {part: Samples(folder / part) for part in ("calibration", "evaluation")}
    if kind in NETWORK_KINDS:
        import onnx_ir as ir

        return ir.load(folder / MODEL)
    if kind == "calibrate":
        from qpipe.quant.statistics import Statistics

        return Statistics.read(folder)
    if kind in ("reference", "exactness"):
        return FloatOutputs(folder)
    if kind == "chunks":
        return Samples(folder)
    if kind == GIVEN_KIND:
        return given_file(folder)
    if kind == "compile":
        return Build.read(folder)
    if kind == "deploy":
        return Stored(**json.loads((folder / STORED).read_text(encoding="utf-8")))
    if kind in MEASURING_KINDS:
        return _read_measurements(folder)
    raise PluginError(f"a result of kind {kind} cannot be read: nothing of it is kept")


def read_part(kind: str, parameter: str, folder: Path) -> Any:
    """Read the part of a result that a stage's parameter takes.

    `calibration_samples` and `evaluation_samples` take one part of the samples; any other
    parameter takes the whole result.
    """
    value = read(kind, folder)
    if kind == "samples":
        return value[parameter.removesuffix("_samples")]
    return value


def sample_digests(folder: Path) -> dict[str, str]:
    """Return the digests of the calibration and the evaluation samples in a folder."""
    digests: dict[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    return digests


def training_curve(folder: Path) -> list[Any] | None:
    """Return how training went that a network comes from; None for one that was not trained."""
    path = folder / TRAINING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def given_file(folder: Path) -> Path | None:
    """Return the file that an imported network was read from; None where it was not kept."""
    path = folder / GIVEN
    return path if path.is_file() else None


def _write_given(model: ir.Model, folder: Path) -> None:
    from qpipe.quant.given_network import given_content

    content = given_content(model)
    if content is not None:
        (folder / GIVEN).write_bytes(content)


def _write_training(model: ir.Model, folder: Path) -> None:
    from qpipe.quant.training_curve import training_curve

    curve = training_curve(model)
    if curve is not None:
        (folder / TRAINING).write_text(curve, encoding="utf-8")


def _write_samples(dataset: Dataset, folder: Path) -> None:
    calibration = Samples.write(
        folder / "calibration", dataset.calibration, dataset.preprocessing, dataset.classes
    )
    evaluation = Samples.write(
        folder / "evaluation",
        dataset.evaluation,
        dataset.preprocessing,
        dataset.classes,
        unlike=calibration,
    )
    write_decoder(folder / DECODER, dataset.decode)
    digests = {"calibration": calibration.digest, "evaluation": evaluation.digest}
    (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")


def _read_measurements(folder: Path) -> list[Measurement]:
    entries = json.loads((folder / MEASUREMENTS).read_text(encoding="utf-8"))
    return [Measurement(**entry) for entry in entries]


def _check_type(value: Any, expected: type, kind: str) -> None:
    if not isinstance(value, expected):
        message = (
            f"a {kind} stage must give {expected.__name__}, this one gave {type(value).__name__}"
        )
        raise PluginError(message, failure="bug")
