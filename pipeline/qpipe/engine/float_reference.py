"""The float network's outputs on samples, computed on the host; SQNR and agreement need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.engine.stage_results import FloatOutputs
from qpipe.errors import StageError
from qpipe.quant.inference import open_session, sample_outputs
from qpipe.quant.network_inputs import network_inputs
from qpipe.samples.preprocess import Shape, fits
from qpipe.samples.selection import take_evenly
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress, Sample

if TYPE_CHECKING:
    import onnx_ir as ir

ALL_CORES = 0
MOST_SIZES = 100  # of samples that are looked at


def float_outputs(
    model: ir.Model, samples: Samples, indices: Iterable[int] | None = None
) -> Iterator[Mapping[str, Array]]:
    """Yield the outputs by name for each of these samples, by default all, with a batch of 1.

    Those of a sequence are stacked, chunk by chunk, see `SampleFeeds.outputs`. Raise StageError
    where the samples do not fit the network, or ONNX Runtime fails on one.
    """
    check_fit(model, samples)
    session = open_session(model, threads=ALL_CORES)
    yield from sample_outputs(session, samples, range(len(samples)) if indices is None else indices)


def write_float_outputs(
    model: ir.Model,
    samples: Samples,
    folder: Path,
    progress: Progress,
    *,
    count: int | None = None,
) -> FloatOutputs:
    """Write the outputs of all samples, or of `count` evenly spread ones, to a folder.

    Memory holds those of one sample at a time.
    """
    Samples.write(folder, _outputs_as_samples(model, samples, progress, count), {})
    return FloatOutputs(folder)


def _outputs_as_samples(
    model: ir.Model, samples: Samples, progress: Progress, count: int | None
) -> Iterator[Sample]:
    indices = take_evenly(range(len(samples)), count)
    for done, outputs in enumerate(float_outputs(model, samples, indices)):
        yield Sample(samples.entries[indices[done]]["id"], outputs)
        progress(done + 1, len(indices), "samples")


def check_fit(model: ir.Model, samples: Samples) -> None:
    """Raise StageError where a sample is not what the network takes; one of each size is looked at.

    Of a network with states it is the first sample's first chunk.
    """
    network = network_inputs(model)
    indices = [0] if network.states else _one_of_each_size(samples)
    for index in indices:
        feeds = samples.sequence(index, network).chunk(0, {})
        for value in model.graph.inputs:
            name = value.name or ""
            try:
                _check_input(value, feeds[name], network.shapes[name])
            except StageError as error:
                if len(indices) == 1 or not _is_size_alone(value, feeds[name]):
                    raise
                raise _other_size(samples.entries[index]["id"], feeds[name], value) from error


def _one_of_each_size(samples: Samples) -> list[int]:
    first_by_sizes: dict[str, int] = {}
    for index, entry in enumerate(samples.entries):
        sizes = {name: array["shape"] for name, array in entry["inputs"].items()}
        first_by_sizes.setdefault(str(sizes), index)
    return list(first_by_sizes.values())[:MOST_SIZES]


def _is_size_alone(value: ir.Value, array: Array) -> bool:
    """Whether an array that does not fit an input has its type and as many axes."""
    has_type = value.dtype is None or array.dtype == value.dtype.numpy()
    return has_type and value.shape is not None and array.ndim == len(value.shape)


def _other_size(sample: str, array: Array, value: ir.Value) -> StageError:
    problem = f"sample '{sample}' gives {array.dtype.name} {list(array.shape)}"
    sizes = ", ".join(map(str, value.shape or ()))
    taken = f"input '{value.name}' of the network takes [{sizes}]"
    fix = "give all samples this size, or a name in place of that number in shapes of the model"
    return StageError(f"the samples differ in size: {problem}, {taken}; {fix}")


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
    has_other_batch = not fits(array, shape) and fed_shape[:1] == [1]
    if has_other_batch and fed_shape[1:] == list(shape[1:]):
        fix = f"set shapes: {{{value.name}: {fed_shape}}} of the model, or export it so"
    raise StageError(f"{reason}; {fix}")
