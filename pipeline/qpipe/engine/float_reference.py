"""The float network's outputs on samples, computed on the host; SQNR and agreement need them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from qpipe.engine.stage_results import FloatOutputs
from qpipe.errors import StageError
from qpipe.quant.inference import inferences, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.samples.preprocess import Shape, fits
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

ALL_CORES = 0


def float_outputs(model: ir.Model, samples: Samples) -> Iterator[dict[str, Array]]:
    """Yield the outputs by name for each sample, batch axis of 1 included.

    Raise StageError where the samples do not fit the network, or ONNX Runtime fails on one.
    """
    check_fit(model, samples)
    session = open_session(model, threads=ALL_CORES)
    yield from inferences(session, samples)


def write_float_outputs(
    model: ir.Model, samples: Samples, folder: Path, progress: Progress
) -> FloatOutputs:
    """Write the outputs of all samples to a folder, sample by sample; memory holds one at a time.

    Raise StageError also where an output is no tensor of numbers, or changes its shape or type
    from sample to sample.
    """
    count = len(samples)
    files: dict[str, _NpyFile] = {}
    with ExitStack() as stack:
        for index, outputs in enumerate(float_outputs(model, samples)):
            for name, array in outputs.items():
                _check_tensor(name, array)
                if name not in files:
                    path = folder / f"{len(files)}.npy"
                    file = stack.enter_context(path.open("wb"))
                    files[name] = _NpyFile(name, file, array, count)
                files[name].append(array, samples.entries[index]["id"])
            progress(index + 1, count, "samples")
    names = {name: f"{number}.npy" for number, name in enumerate(files)}
    (folder / FloatOutputs.INDEX).write_text(json.dumps(names), encoding="utf-8")
    return FloatOutputs(folder)


class _NpyFile:
    """A .npy file of one output, written sample by sample."""

    def __init__(self, name: str, file: BinaryIO, first: Array, count: int) -> None:
        self.name = name
        self.file = file
        self.shape = first.shape
        self.dtype = first.dtype
        header = {
            "descr": npy_format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (count, *first.shape),
        }
        npy_format.write_array_header_1_0(file, header)

    def append(self, array: Array, sample_id: str) -> None:
        """Write one sample's output; raise StageError where it is not like that of the first."""
        if array.shape != self.shape or array.dtype != self.dtype:
            first = f"{self.dtype.name} {list(self.shape)}"
            raise StageError(
                f"sample '{sample_id}': output '{self.name}' of the float network is "
                f"{array.dtype.name} {list(array.shape)}, of the first sample it is {first}; "
                "give samples, or a network, whose outputs have one shape"
            )
        self.file.write(array.tobytes())


def _check_tensor(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise StageError(
            f"output '{name}' of the float network is no tensor of numbers; "
            "give a network whose outputs are such tensors"
        )


def check_fit(model: ir.Model, samples: Samples) -> None:
    """Raise StageError where the first sample is not what the network takes."""
    shapes = input_shapes(model)
    feeds = samples.feeds(0, shapes)
    for value in model.graph.inputs:
        name = value.name or ""
        _check_input(value, feeds[name], shapes[name])


def _check_input(value: ir.Value, array: Array, shape: Shape) -> None:
    if shape is None:
        return
    dtype = array.dtype.name if value.dtype is None else value.dtype.numpy().name
    if fits(array, shape) and array.dtype.name == dtype:
        return
    fed_shape = list(array.shape)
    reason = (
        f"the samples give {array.dtype.name} {fed_shape}, "
        f"input '{value.name}' of the network takes {dtype} {list(shape)}"
    )
    fix = "set size, layout or type of the samples"
    if fed_shape[:1] == [1] and fed_shape[1:] == list(shape[1:]):
        fix = f"set shapes: {{{value.name}: {fed_shape}}} of the model, or export it so"
    raise StageError(f"{reason}; {fix}")
