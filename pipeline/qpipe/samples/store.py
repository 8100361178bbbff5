"""Samples in a folder: arrays end to end in one file, an index beside it; any shapes, read lazily."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from qpipe.errors import StageError
from qpipe.samples.preprocess import feeds
from qpipe.types import Array, Preprocessing, Sample

INDEX = "samples.json"
ARRAYS = "inputs.bin"


class Samples(Sequence[Sample]):
    """A sequence of samples that lies in a folder; memory holds only the index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.preprocessing = {
            name: Preprocessing(tuple(how["mean"]), tuple(how["std"]), how["layout"], how["dtype"])
            for name, how in index["preprocessing"].items()
        }
        self.classes: list[str] = index["classes"]
        self.entries: list[dict[str, Any]] = index["samples"]

    @classmethod
    def write(
        cls,
        folder: Path,
        samples: Iterable[Sample],
        preprocessing: Mapping[str, Preprocessing],
        classes: Sequence[str] = (),
        unlike: Samples | None = None,
    ) -> Samples:
        """Write a stream of samples, one at a time; StageError for none, for two with one id, and for one with the same
        inputs as one of `unlike`."""
        folder.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        seen: set[str] = set()
        other = {entry["digest"]: entry["id"] for entry in unlike.entries} if unlike else {}
        with (folder / ARRAYS).open("wb") as file:
            for sample in samples:
                if sample.id in seen:
                    raise StageError(
                        f"samples: two samples are called '{sample.id}'; ids must differ"
                    )
                seen.add(sample.id)
                inputs, digest = _append(file, sample)
                if digest in other:
                    what = f"'{sample.id}' of evaluation has the same inputs as '{other[digest]}' of calibration"
                    raise StageError(f"samples: {what}; evaluate on what calibration never saw")
                target = _plain(sample.target)
                entries.append(
                    {"id": sample.id, "digest": digest, "inputs": inputs, "target": target}
                )
        if not entries:
            raise StageError(
                "samples: there is none; the stage must give at least one for calibration and evaluation"
            )
        index = {
            "preprocessing": {name: asdict(how) for name, how in preprocessing.items()},
            "classes": list(classes),
            "samples": entries,
        }
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        return cls(folder)

    @cached_property
    def digest(self) -> str:
        """sha256 of the arrays, their ids and targets, and how they are fed."""
        return hashlib.sha256(
            (self.folder / INDEX).read_bytes()
        ).hexdigest()  # which holds a digest of each's arrays

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
        inputs = {name: self._array(where) for name, where in entry["inputs"].items()}
        return Sample(entry["id"], inputs, entry["target"])

    def _array(self, where: Mapping[str, Any]) -> Array:
        # read, not mapped: pages of a mapped file stay resident and count as this process's memory
        shape = where["shape"]
        count = int(np.prod(shape, dtype=np.int64))
        array: Array = np.fromfile(
            self.folder / ARRAYS, np.dtype(where["dtype"]), count, offset=where["offset"]
        )
        return array.reshape(shape)

    def feeds(self, index: int, names: Sequence[str]) -> dict[str, Array]:
        """Sample `index` as a network with these input names takes it, batch axis added."""
        how = {name: asdict(preprocessing) for name, preprocessing in self.preprocessing.items()}
        inputs = dict(self[index].inputs)
        missing = sorted(set(names) - set(inputs)) if len(names) > 1 or len(inputs) > 1 else []
        if missing:
            has = ", ".join(sorted(inputs))
            raise StageError(
                f"the network takes an input '{missing[0]}', which the samples have not; they have {has}"
            )
        return feeds(inputs, how, names)


def _append(file: BinaryIO, sample: Sample) -> tuple[dict[str, Any], str]:
    """Where the sample's arrays are now in the file, and their digest: of names, types, shapes and bytes."""
    inputs = {}
    sha = hashlib.sha256()
    for name, given in sorted(sample.inputs.items()):
        if given.dtype.kind not in "biufc":
            raise StageError(
                f"sample '{sample.id}': input '{name}' is of type {given.dtype}; give numbers"
            )
        array = np.asarray(
            given, given.dtype.newbyteorder("<"), order="C"
        )  # what every board can read
        said = {"dtype": array.dtype.str, "shape": list(array.shape)}
        inputs[name] = {"offset": file.tell(), **said}
        sha.update(json.dumps([name, said]).encode())
        sha.update(array.data)
        file.write(array.data)
    return inputs, sha.hexdigest()


def _plain(target: Any) -> Any:
    if isinstance(target, np.ndarray | np.generic):
        return target.tolist()
    if isinstance(target, Mapping):
        return {key: _plain(value) for key, value in target.items()}
    return target
