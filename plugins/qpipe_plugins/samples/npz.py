"""Samples of any kind as named arrays in NumPy's .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qpipe.errors import StageError, suggest
from qpipe.types import Array, Dataset, Preprocessing, Sample
from qpipe_plugins.samples.labelled_files import find, spread

Type = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"
]
Numbers = float | list[float]
HOW = "numpy.savez(file, name=array)"
Row = tuple[str, dict[str, Array]]  # a sample's id and arrays


def npz(
    *,
    calibration: Path,
    evaluation: Path,
    target: str | dict[str, str] | None = None,
    inputs: list[str] | None = None,
    mean: dict[str, Numbers] | None = None,
    std: dict[str, Numbers] | None = None,
    layout: dict[str, Literal["NCHW", "none"]] | None = None,
    dtype: dict[str, Type] | None = None,
    calibrate: int | None = None,
    evaluate: int | None = None,
) -> Dataset:
    """Named arrays of any modality from .npz files, fed as they are: an array per input of the network, and a target.

    A file holds many samples along axis 0 of each array, all of one length, and is read whole; a folder holds one .npz
    a sample, without a batch axis. `target` names the array of targets (or several, {boxes: KEY, labels: KEY}), which
    calibration need not have; all other arrays are inputs, unless `inputs` names these. By input name: with `mean`
    or `std` (one number, or one for each place along the last axis) the network gets (x - mean) / std as float32, with
    `dtype` the values in that type, with layout NCHW a sample of [H, W, C] as [C, H, W]. `calibrate` and `evaluate`
    take that many, evenly spread. Arrays of objects are refused: nothing is unpickled.
    """
    targets = [target] if isinstance(target, str) else list((target or {}).values())
    rows = _rows(calibration, calibrate)
    first = next(rows)
    names = inputs or sorted(set(first[1]) - set(targets))
    if not names:
        raise StageError(
            f"npz: {calibration} has no array besides the target; save the network's inputs there"
        )
    _check_inputs(first, names, f"npz: {calibration}", targets)
    for option, value in {"mean": mean, "std": std, "layout": layout, "dtype": dtype}.items():
        for name in sorted(set(value or {}) - set(names)):
            raise StageError(
                f"npz: {option} is given for '{name}', which is no input; {suggest(name, names)}"
            )
    how = {}
    for name in names:
        settings = {
            key: each[name] for key, each in (("mean", mean), ("std", std)) if each and name in each
        }
        kind = (dtype or {}).get(name)
        how[name] = _preprocessing(
            name, first[1][name], settings, (layout or {}).get(name, "none"), kind
        )

    def stream(part: Iterator[Row], where: Path, wanted: Sequence[str]) -> Iterator[Sample]:
        for identity, arrays in part:
            _check_inputs((identity, arrays), [*names, *wanted], f"npz: {where}", targets, first[1])
            yield Sample(identity, {name: arrays[name] for name in names}, _target(arrays, target))

    return Dataset(
        stream(chain([first], rows), calibration, ()),
        stream(_rows(evaluation, evaluate), evaluation, targets),
        how,
    )


def _preprocessing(
    name: str,
    array: Array,
    settings: Mapping[str, Numbers],
    layout: Literal["NCHW", "none"],
    dtype: str | None,
) -> Preprocessing:
    if settings and dtype not in (None, "float32"):
        raise StageError(
            f"npz: input '{name}' has mean or std and dtype {dtype}; these make it float32"
        )
    numbers = {}
    for option, value in settings.items():
        numbers[option] = tuple(map(float, value)) if isinstance(value, list) else (float(value),)
        last = array.shape[-1] if array.ndim else 1
        if len(numbers[option]) not in (1, last) or (option == "std" and 0 in numbers[option]):
            raise StageError(
                f"npz: {option} of input '{name}' is {value}; give one number, or {last} for its last axis"
            )
    return Preprocessing(
        **numbers, layout=layout, dtype="float32" if settings else dtype or array.dtype.name
    )


def _check_inputs(
    row: Row,
    wanted: Sequence[str],
    where: str,
    targets: Sequence[str],
    model: Mapping[str, Array] | None = None,
) -> None:
    """StageError where the sample lacks an array, or an input is no number or of another type than in `model`."""
    identity, arrays = row
    for name in wanted:
        if name not in arrays:
            raise StageError(
                f"{where}: sample '{identity}' has no array '{name}'; {suggest(name, arrays)}"
            )
        kind = arrays[name].dtype
        if name in targets:
            continue
        if kind.kind not in "biuf":
            raise StageError(
                f"{where}: input '{name}' of sample '{identity}' is of type {kind}; save numbers"
            )
        if model is not None and kind != model[name].dtype:
            is_not = f"is {kind}, the first of calibration {model[name].dtype}"
            raise StageError(
                f"{where}: input '{name}' of sample '{identity}' {is_not}; save all in one type"
            )


def _target(arrays: Mapping[str, Array], target: str | dict[str, str] | None) -> Any:
    if isinstance(target, dict):
        found = {field: arrays[name].tolist() for field, name in target.items() if name in arrays}
        return found or None
    return arrays[target].tolist() if target is not None and target in arrays else None


# ---- files


def _rows(path: Path, count: int | None) -> Iterator[Row]:
    if path.is_dir():
        for each in spread("npz", "sample", find("npz", ".npz file", {".npz"}, path), count):
            yield each.name, _load(each.file)
        return
    arrays = _load(path)
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        said = ", ".join(f"'{name}' {list(array.shape)}" for name, array in arrays.items())
        raise StageError(
            f"npz: {path}: arrays are {said}; all must have the samples along axis 0, and as many"
        )
    (length,) = set(lengths.values())
    if not length:
        raise StageError(f"npz: {path} has no samples; save at least one")
    for index in spread("npz", "sample", range(length), count):
        yield f"{path.stem}-{index}", {name: array[index, ...] for name, array in arrays.items()}


def _load(file: Path) -> dict[str, Array]:
    try:
        with file.open("rb") as stream:  # numpy would leave a file that is no archive open
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise StageError(
                    f"npz: {file} is a single array without a name; save it with {HOW}"
                )
            arrays = {name: _array(file, opened, name) for name in opened.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StageError(
            f"npz: {file} cannot be read: {_line(error)}; save it with {HOW}"
        ) from error
    if not arrays:
        raise StageError(f"npz: {file} holds no array; save it with {HOW}")
    return arrays


def _array(file: Path, opened: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return np.asarray(opened[name])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        hint = "save it again, as numbers: nothing is unpickled"
        raise StageError(
            f"npz: {file}: array '{name}' cannot be read: {_line(error)}; {hint}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
