"""Samples in a folder: arrays of any shapes end to end in one file, and an index beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, overload

import numpy as np

from qpipe.digests import digest_bytes
from qpipe.errors import StageError
from qpipe.samples.preprocess import Shape, feeds
from qpipe.samples.sample_feeds import NetworkInputs, SampleFeeds
from qpipe.types import Array, Preprocessing, Sample

INDEX = "samples.json"
ARRAYS = "inputs.bin"
NUMBERS = "biufc"  # numpy's kinds of types that boards can read: bool, integers, floats, complex


class ArrayEntry(TypedDict):
    """Where an array lies in the file of arrays; `offset` is in bytes, `dtype` little-endian."""

    offset: int
    dtype: str
    shape: list[int]


class SampleEntry(TypedDict):
    """A sample in the index; `digest` is that of its inputs."""

    id: str
    digest: str
    inputs: dict[str, ArrayEntry]
    target: Any


class Samples(Sequence[Sample]):
    """A sequence of samples that lies in a folder; memory holds only the index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.preprocessing = {
            name: Preprocessing(
                tuple(fields["mean"]), tuple(fields["std"]), fields["layout"], fields["dtype"]
            )
            for name, fields in index["preprocessing"].items()
        }
        self.classes: list[str] = index["classes"]
        self.entries: list[SampleEntry] = index["samples"]

    @classmethod
    def write(
        cls,
        folder: Path,
        samples: Iterable[Sample],
        preprocessing: Mapping[str, Preprocessing],
        classes: Sequence[str] = (),
        unlike: Samples | None = None,
        shuffle: bool = False,
    ) -> Samples:
        """Write a stream of samples into a folder, one at a time.

        `shuffle` puts them into an order that is random, and always the same.

        Raise StageError where there is none, where two have one id, where one has the same inputs
        as a sample of `unlike`, and where an input is not numeric.
        """
        folder.mkdir(parents=True, exist_ok=True)
        calibration_ids = _ids_by_digest(unlike)
        entries: list[SampleEntry] = []
        ids: set[str] = set()
        with (folder / ARRAYS).open("wb") as file:
            for sample in samples:
                if sample.id in ids:
                    raise StageError(
                        f"samples: two samples have the id '{sample.id}'; ids must differ"
                    )
                ids.add(sample.id)
                entry = _append(file, sample)
                if entry["digest"] in calibration_ids:
                    raise StageError(
                        f"samples: '{sample.id}' of evaluation has the same inputs as "
                        f"'{calibration_ids[entry['digest']]}' of calibration; evaluate on samples "
                        "that calibration does not use"
                    )
                entries.append(entry)
        if not entries:
            raise StageError(
                "samples: there are none; the stage must give at least one for calibration and one "
                "for evaluation"
            )
        if shuffle:
            np.random.default_rng(0).shuffle(entries)
        index = {
            "preprocessing": {name: asdict(fields) for name, fields in preprocessing.items()},
            "classes": list(classes),
            "samples": entries,
        }
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        return cls(folder)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the arrays, their ids and targets, and how they are fed."""
        index = (self.folder / INDEX).read_bytes()  # it holds a digest of each sample's arrays
        return digest_bytes(index)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry = self.entries[index]
        inputs = {name: self._read_array(array) for name, array in entry["inputs"].items()}
        return Sample(entry["id"], inputs, entry["target"])

    def _read_array(self, entry: ArrayEntry) -> Array:
        # not mapped: pages of a mapped file stay resident and count as this process's memory
        count = int(np.prod(entry["shape"], dtype=np.int64))
        dtype = np.dtype(entry["dtype"])
        array: Array = np.fromfile(self.folder / ARRAYS, dtype, count, offset=entry["offset"])
        return array.reshape(entry["shape"])

    def feeds(
        self, index: int, inputs_taken: Mapping[str, Shape] | Sequence[str]
    ) -> dict[str, Array]:
        """Return sample `index` as a network with these inputs takes it.

        `inputs_taken` are the shapes of its inputs by name, see `quant.network_inputs`: a sample
        gets a batch axis of 1 where it lacks one. Of names alone, every input gets it at the
        front. Raise StageError where the sample lacks an input.
        """
        inputs = dict(self[index].inputs)
        if not isinstance(inputs_taken, Mapping):
            inputs_taken = dict.fromkeys(inputs_taken)
        _check_inputs(inputs, inputs_taken)
        return feeds(inputs, self._preprocessing_fields(), inputs_taken)

    def sequence(self, index: int, network: NetworkInputs) -> SampleFeeds:
        """Return what a network is fed for sample `index`, chunk by chunk where it has states.

        Raise StageError where the sample lacks an input, or its inputs differ in their chunks.
        """
        inputs = dict(self[index].inputs)
        _check_inputs(inputs, [name for name in network.shapes if name not in network.states])
        try:
            return SampleFeeds(inputs, self._preprocessing_fields(), network)
        except ValueError as error:
            raise StageError(f"sample '{self.entries[index]['id']}': {error}") from error

    def _preprocessing_fields(self) -> dict[str, dict[str, Any]]:
        return {name: asdict(preprocessing) for name, preprocessing in self.preprocessing.items()}


def _check_inputs(inputs: Mapping[str, Array], names: Collection[str]) -> None:
    """Raise StageError where a sample lacks one of these inputs; a single one may have any name."""
    missing = sorted(set(names) - set(inputs))
    if missing and not len(names) == len(inputs) == 1:
        raise StageError(
            f"the network takes an input '{missing[0]}', which the samples do not have; they "
            f"have {', '.join(sorted(inputs))}"
        )


def _ids_by_digest(samples: Samples | None) -> dict[str, str]:
    if samples is None:
        return {}
    return {entry["digest"]: entry["id"] for entry in samples.entries}


def _append(file: BinaryIO, sample: Sample) -> SampleEntry:
    """Append a sample's arrays to the file; their digest covers names, types, shapes and bytes."""
    inputs: dict[str, ArrayEntry] = {}
    sha = hashlib.sha256()
    for name, source in sorted(sample.inputs.items()):
        if source.dtype.kind not in NUMBERS:
            raise StageError(
                f"sample '{sample.id}': input '{name}' has type {source.dtype}; it must be numeric"
            )
        # little-endian, which every board can read
        array = np.asarray(source, source.dtype.newbyteorder("<"), order="C")
        dtype = array.dtype.str
        shape = list(array.shape)
        inputs[name] = {"offset": file.tell(), "dtype": dtype, "shape": shape}
        sha.update(json.dumps([name, {"dtype": dtype, "shape": shape}]).encode())
        sha.update(array.data)
        file.write(array.data)
    return {
        "id": sample.id,
        "digest": sha.hexdigest(),
        "inputs": inputs,
        "target": _as_json(sample.target),
    }


def _as_json(target: Any) -> Any:
    """Return a target with lists and numbers of Python in place of numpy's."""
    if isinstance(target, np.ndarray | np.generic):
        return target.tolist()
    if isinstance(target, Mapping):
        return {key: _as_json(value) for key, value in target.items()}
    return target
