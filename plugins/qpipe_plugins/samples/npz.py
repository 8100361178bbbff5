"""Samples of any modality as named arrays in NumPy's .npz files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qpipe.errors import StageError, suggest
from qpipe.samples.preprocess import FLOATS
from qpipe.samples.selection import take_evenly
from qpipe.types import Array, Dataset, Preprocessing, Sample
from qpipe_plugins.samples.array_files import check_arrays_exist, decode_arrays, load_arrays
from qpipe_plugins.samples.labelled_files import (
    FileKind,
    check_counts,
    find_files,
)

InputType = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"
]
Numbers = float | list[float]
Layout = Literal["NCHW", "none"]
TargetArrays = str | dict[str, str] | None  # the array of targets, or its array for each field
KIND = FileKind("npz", ".npz file", frozenset({".npz"}))


class NamedArrays(NamedTuple):
    """The arrays of one sample, targets included."""

    id: str
    arrays: Mapping[str, Array]


def npz(
    *,
    calibration: Path,
    evaluation: Path,
    target: str | dict[str, str] | None = None,
    inputs: list[str] | None = None,
    mean: dict[str, Numbers] | None = None,
    std: dict[str, Numbers] | None = None,
    layout: dict[str, Layout] | None = None,
    dtype: dict[str, InputType] | None = None,
    calibration_count: int | None = None,
    evaluation_count: int | None = None,
) -> Dataset:
    """Read named arrays of any modality from .npz files: one for each input, and a target.

    The arrays are fed as they are; a batch axis of 1 is added where the network has one that they
    lack. A file holds many samples along axis 0 of each array, all of one length, and is read
    whole; a folder holds one .npz file for each sample. `target` names the array of targets (or
    several, {boxes: KEY, labels: KEY}), which calibration need not have; all other arrays are
    inputs, unless `inputs` names these. By input name: with `mean` or `std` (one number, or one for
    each place along the last axis) the network receives (x - mean) / std as float32, with `dtype`
    the values in that type, with layout NCHW a sample of [H, W, C] as [C, H, W].
    `calibration_count` and `evaluation_count` limit the number of samples, evenly spread. Arrays of
    objects are refused: nothing is unpickled.
    """
    check_counts("npz", calibration_count=calibration_count, evaluation_count=evaluation_count)
    target_names = _target_names(target)
    calibration_samples = _read_samples(calibration, calibration_count)
    first = next(calibration_samples)
    input_names = inputs or sorted(set(first.arrays) - set(target_names))
    if not input_names:
        problem = f"{calibration} has no array besides the target"
        raise StageError(f"npz: {problem}; save the network's inputs in it")
    _check_inputs(first, input_names, f"npz: {calibration}")
    means = mean or {}
    deviations = std or {}
    layouts = layout or {}
    types = dtype or {}
    _check_input_names("mean", means, input_names)
    _check_input_names("std", deviations, input_names)
    _check_input_names("layout", layouts, input_names)
    _check_input_names("dtype", types, input_names)
    preprocessing = {}
    for name in input_names:
        preprocessing[name] = _preprocessing(
            name,
            first.arrays[name],
            mean=means.get(name),
            std=deviations.get(name),
            layout=layouts.get(name, "none"),
            dtype=types.get(name),
        )

    def check_samples(
        samples: Iterator[NamedArrays], where: str, required_targets: Sequence[str]
    ) -> Iterator[Sample]:
        for sample in samples:
            _check_inputs(sample, input_names, where)
            check_arrays_exist(sample.arrays, required_targets, f"{where}: sample '{sample.id}'")
            _check_same_types(sample, first, input_names, where)
            sample_inputs = {name: sample.arrays[name] for name in input_names}
            yield Sample(sample.id, sample_inputs, _target_value(sample.arrays, target))

    all_calibration_samples = chain([first], calibration_samples)
    evaluation_samples = _read_samples(evaluation, evaluation_count)
    return Dataset(
        check_samples(all_calibration_samples, f"npz: {calibration}", ()),
        check_samples(evaluation_samples, f"npz: {evaluation}", target_names),
        preprocessing,
        decode=partial(decode_arrays, inputs=input_names),
    )


# ---- options


def _target_names(target: TargetArrays) -> list[str]:
    if target is None:
        return []
    if isinstance(target, str):
        return [target]
    return list(target.values())


def _check_input_names(option: str, values: Collection[str], input_names: Sequence[str]) -> None:
    """Raise StageError where an option has a value for an array that is not an input."""
    for name in sorted(set(values) - set(input_names)):
        problem = f"{option} is given for '{name}', which is not an input"
        raise StageError(f"npz: {problem}; {suggest(name, input_names)}")


def _preprocessing(
    name: str,
    array: Array,
    *,
    mean: Numbers | None,
    std: Numbers | None,
    layout: Layout,
    dtype: str | None,
) -> Preprocessing:
    if mean is None and std is None:
        return Preprocessing(layout=layout, dtype=dtype or array.dtype.name)
    if dtype not in (None, *FLOATS):
        problem = f"input '{name}' has mean or std, which make it float, and dtype {dtype}"
        raise StageError(f"npz: {problem}; remove one of them")
    last_axis = array.shape[-1] if array.ndim else 1
    means = _as_tuple(0.0 if mean is None else mean)
    deviations = _as_tuple(1.0 if std is None else std)
    hint = f"or {last_axis} for its last axis"
    if len(means) not in (1, last_axis):
        raise StageError(f"npz: mean of input '{name}' is {mean}; give one number, {hint}")
    if len(deviations) not in (1, last_axis) or 0 in deviations:
        problem = f"std of input '{name}' is {std}"
        raise StageError(f"npz: {problem}; give one number that is not 0, {hint}")
    return Preprocessing(means, deviations, layout, dtype or "float32")


def _as_tuple(value: Numbers) -> tuple[float, ...]:
    if isinstance(value, list):
        return tuple(float(number) for number in value)
    return (float(value),)


# ---- samples


def _check_inputs(sample: NamedArrays, input_names: Sequence[str], where: str) -> None:
    """Raise StageError where the sample lacks an input, or an input does not hold numbers."""
    check_arrays_exist(sample.arrays, input_names, f"{where}: sample '{sample.id}'")
    for name in input_names:
        dtype = sample.arrays[name].dtype
        if dtype.kind not in "biuf":
            problem = f"input '{name}' of sample '{sample.id}' has type {dtype}"
            raise StageError(f"{where}: {problem}; it must hold numbers")


def _check_same_types(
    sample: NamedArrays, first: NamedArrays, input_names: Sequence[str], where: str
) -> None:
    """Raise StageError where an input's type differs from that of the first sample."""
    for name in input_names:
        dtype = sample.arrays[name].dtype
        first_dtype = first.arrays[name].dtype
        if dtype != first_dtype:
            problem = (
                f"input '{name}' of sample '{sample.id}' has type {dtype}, "
                f"but that of the first calibration sample has {first_dtype}"
            )
            raise StageError(f"{where}: {problem}; save all samples in one type")


def _target_value(arrays: Mapping[str, Array], target: TargetArrays) -> Any:
    """Return the target as JSON holds it; None where the sample has no array for it."""
    if target is None:
        return None
    if isinstance(target, str):
        return arrays[target].tolist() if target in arrays else None
    values = {field: arrays[name].tolist() for field, name in target.items() if name in arrays}
    return values or None


# ---- files


def _read_samples(path: Path, count: int | None) -> Iterator[NamedArrays]:
    if path.is_dir():
        for labelled in take_evenly(find_files(KIND, path), count):
            yield NamedArrays(labelled.name, load_arrays(labelled.file))
        return
    arrays = load_arrays(path)
    length = _common_length(path, arrays)
    for index in take_evenly(range(length), count):
        sample_arrays = {name: array[index, ...] for name, array in arrays.items()}
        yield NamedArrays(f"{path.stem}-{index}", sample_arrays)


def _common_length(path: Path, arrays: Mapping[str, Array]) -> int:
    """Return the number of samples along axis 0 of all arrays."""
    has_scalar = any(array.ndim == 0 for array in arrays.values())
    lengths = {len(array) for array in arrays.values() if array.ndim}
    if has_scalar or len(lengths) != 1:
        shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in arrays.items())
        hint = "all must have the samples along axis 0, and the same number of them"
        raise StageError(f"npz: {path}: the shapes of the arrays are {shapes}; {hint}")
    length = lengths.pop()
    if length == 0:
        raise StageError(f"npz: {path} has no samples; save at least one")
    return length
