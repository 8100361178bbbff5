"""Checks of samples stages: two streams without a common sample, and how files are decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.engine import portable_call, stage_results
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.types import Dataset, Sample

MOST_FILES = 3  # that are decoded


def samples_can_be_stored(subject: Subject, folder: Path) -> str:
    """Require calibration and evaluation samples of numbers, with their own ids, none in both."""
    samples = _store(subject, folder)
    counts = {part: len(samples[part]) for part in samples}
    return f"{counts['calibration']} to calibrate, {counts['evaluation']} to evaluate"


def samples_are_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same samples, bit by bit, when the stage is called again."""
    _store(subject, folder / "first")
    _store(subject, folder / "second")
    first = stage_results.sample_digests(folder / "first")
    second = stage_results.sample_digests(folder / "second")
    require(first == second, "two calls with the same options give different samples")
    return "two calls give the same samples"


def targets_are_json(subject: Subject, folder: Path) -> str:
    """Require targets that JSON holds as they are."""
    sample = next(iter(_dataset(subject).evaluation))
    if sample.target is None:
        raise NotApplicableError("the samples have no targets")
    stored = _store(subject, folder)["evaluation"][0].target
    require(json.loads(json.dumps(stored)) == stored, "its targets change when they are stored")
    return type(stored).__name__


def decode_gives_what_the_dataset_gives(subject: Subject, folder: Path) -> str:
    """Require that `decode` makes of a sample's file what the dataset has, bit by bit."""
    dataset = _dataset(subject)
    if dataset.decode is None:
        raise NotApplicableError("its Dataset has no decode, so exports feed no files")
    count = 0
    for sample in dataset.evaluation:
        for file in _files_of(subject, sample):
            _require_same(sample, dataset.decode(file), file)
            count += 1
            break
        if count == MOST_FILES:
            break
    if not count:
        raise NotApplicableError("no sample has the name of a file in the folders of its options")
    return f"{count} files"


def decode_runs_without_qpipe(subject: Subject, folder: Path) -> str:
    """Require a `decode` that an export can take along: see `qpipe.Dataset`."""
    dataset = _dataset(subject)
    if dataset.decode is None:
        raise NotApplicableError("its Dataset has no decode, so exports feed no files")
    portable_call.write_decoder(folder / "decoder", dataset.decode)
    reason = portable_call.read_call(folder / "decoder").get("reason")
    require(reason is None, f"an export cannot take decode along: {reason}")
    return "exports take it along"


def _dataset(subject: Subject) -> Dataset:
    dataset: Dataset = subject.stage.function(**subject.call().resolved())
    require(isinstance(dataset, Dataset), f"it gives {type(dataset).__name__}, not a Dataset")
    return dataset


def _store(subject: Subject, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    stage_results.write("samples", _dataset(subject), folder)
    return stage_results.read("samples", folder)


def _files_of(subject: Subject, sample: Sample) -> Iterator[Path]:
    """Yield the files below the folders that options name which have the name of a sample."""
    for option in subject.call().options.values():
        if isinstance(option, Path) and option.is_dir():
            for file in sorted(option.rglob("*")):
                place = file.relative_to(option)
                if sample.id in (str(place), str(place.with_suffix("")), file.name, file.stem):
                    yield file


def _require_same(sample: Sample, decoded: Any, file: Path) -> None:
    problem = f"decode({file.name}) gives other inputs than sample '{sample.id}' has"
    require(set(decoded) == set(sample.inputs), problem)
    for name, array in sample.inputs.items():
        try:
            np.testing.assert_array_equal(decoded[name], array, strict=True)
        except AssertionError as error:
            raise NonconformityError(f"{problem}: {name}") from error
