"""Outputs of samples that a report shows, kept in the cache for the next report."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from qpipe.digests import digest_json
from qpipe.report.both_predictions import Outputs, SampleOutputs
from qpipe.storage.cache import Cache

KIND = "seen"  # of the entries in the cache
INDEX = "samples.json"
ARRAYS = "outputs.npz"
LARGEST_KEPT = 16 << 20  # bytes of outputs; those of more would fill the cache
FORMAT = 1


def outputs_key(builds: Sequence[str], samples: str, answers: Sequence[float]) -> str:
    """Return the key of the outputs of builds, by their keys, for samples, by their digest.

    Which of the samples are shown depends on their answers on the device.
    """
    runtime = importlib.metadata.version("onnxruntime")
    return digest_json([FORMAT, runtime, builds, samples, answers])


def kept_outputs(
    cache: Cache, key: str, infer: Callable[[], list[SampleOutputs]]
) -> list[SampleOutputs]:
    """Return what the cache has of a key, else what `infer` gives, which is kept if it is small."""
    folder = cache.get(KIND, key)
    if folder is not None:
        return _read(folder)
    outputs = infer()
    if _size(outputs) <= LARGEST_KEPT:
        with suppress(OSError), cache.put(KIND, key) as out:
            _write(out, outputs)
    return outputs


def _size(outputs: Sequence[SampleOutputs]) -> int:
    sides = [side for sample in outputs for side in (sample.by_float, sample.by_scheme)]
    return sum(array.nbytes for side in sides for array in side.values())


def _write(folder: Path, outputs: Sequence[SampleOutputs]) -> None:
    arrays: Outputs = {
        f"{number}-{side}-{output}": array
        for number, sample in enumerate(outputs)
        for side, values in enumerate((sample.by_float, sample.by_scheme))
        for output, array in enumerate(values.values())
    }
    np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]
    index = [
        {
            "sample": sample.index,
            "names": [list(sample.by_float), list(sample.by_scheme)],
        }
        for sample in outputs
    ]
    (folder / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")


def _read(folder: Path) -> list[SampleOutputs]:
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS) as arrays:
        return [
            SampleOutputs(
                entry["sample"],
                *(
                    {name: arrays[f"{number}-{side}-{output}"] for output, name in enumerate(names)}
                    for side, names in enumerate(entry["names"])
                ),
            )
            for number, entry in enumerate(index)
        ]
