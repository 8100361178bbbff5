"""Outputs that a report shows: inferred once, then read from the cache as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qpipe.report.both_predictions import SampleOutputs
from qpipe.report.kept_outputs import LARGEST_KEPT, kept_outputs, outputs_key
from qpipe.storage.cache import Cache


def outputs(index: int, size: int = 3) -> SampleOutputs:
    scores = np.arange(size, dtype=np.float32)
    boxes = np.array([[1, 2]], np.int64)
    return SampleOutputs(
        index, {"a/scores": scores, "boxes": boxes}, {"boxes": boxes + 1, "a/scores": -scores}
    )


def inferred_for(cache: Cache, samples: list[SampleOutputs]) -> list[SampleOutputs]:
    return kept_outputs(cache, "key", lambda: samples)


def test_what_was_inferred_once_is_read_with_its_names_types_and_order(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = inferred_for(cache, [outputs(7), outputs(2)])
    second = inferred_for(cache, [])
    assert [sample.index for sample in second] == [7, 2]
    for expected, actual in zip(first, second, strict=True):
        for before, after in (
            (expected.by_float, actual.by_float),
            (expected.by_scheme, actual.by_scheme),
        ):
            assert list(before) == list(after)
            assert all(before[name].dtype == after[name].dtype for name in before)
            assert all(np.array_equal(before[name], after[name]) for name in before)


def test_large_outputs_are_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    inferred_for(cache, [outputs(0, LARGEST_KEPT // 4)])
    assert inferred_for(cache, []) == []


def test_a_damaged_entry_is_inferred_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    inferred_for(cache, [outputs(7)])
    (file,) = tmp_path.rglob("outputs.npz")
    file.write_bytes(b"damaged")
    assert [sample.index for sample in inferred_for(cache, [outputs(5)])] == [5]


def test_the_key_depends_on_builds_samples_and_answers() -> None:
    keys = {
        outputs_key(["float", "int8"], "samples", [1.0]),
        outputs_key(["float", "int4"], "samples", [1.0]),
        outputs_key(["float", "int8"], "others", [1.0]),
        outputs_key(["float", "int8"], "samples", [0.5]),
    }
    assert len(keys) == 4
