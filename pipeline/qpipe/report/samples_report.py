"""A samples report in a folder: pictures and sounds, samples.json, and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import QpipeError
from qpipe.report import report_types as types
from qpipe.report.box_drawing import Box, draw_boxes
from qpipe.report.input_statistics import channel_statistics, input_warnings
from qpipe.report.predictions import (
    count_correct_labels,
    describe_prediction,
    label_warnings,
)
from qpipe.report.samples_page import samples_page
from qpipe.report.tensor_pictures import view_tensor
from qpipe.types import Array, Measurement, Preprocessing

INDEX = "samples.json"
PAGE = "index.html"


@dataclass(frozen=True)
class FedSample:
    """One sample: the tensors that the network is fed, [1, ...], and the prediction."""

    id: str
    part: str  # calibration or evaluation
    inputs: Mapping[str, Array]
    target: Any = None
    prediction: Any = None  # the result of the postprocess, or the outputs of the network
    failure: str = ""  # why there is no prediction


@dataclass(frozen=True)
class SamplesOfModel:
    """A network with samples that it is fed."""

    name: str
    preprocessing: Mapping[str, Preprocessing]  # by input of the network
    samples: Sequence[FedSample]
    class_names: Sequence[str] = ()
    sample_rate: int | None = None  # of sounds, in Hz
    has_postprocess: bool = False
    part_sizes: Mapping[str, int] = field(default_factory=dict)  # part -> number of its samples
    scores: Sequence[Measurement] = ()  # of the evaluation samples against their targets
    unscored: str = ""  # why there are no scores


def write_samples_report(
    folder: Path, title: str, models: Sequence[SamplesOfModel]
) -> types.SamplesReport:
    """Write the page, samples.json and the files they refer to; return what is in samples.json.

    Replaces an earlier report in the folder. Raise QpipeError where the folder holds other files.
    """
    _make_room(folder)
    model_reports = [_write_model(folder, number, model) for number, model in enumerate(models)]
    report: types.SamplesReport = _json_value({"recipe": title, "models": model_reports})
    (folder / PAGE).write_text(samples_page(title, model_reports), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _json_value(value: Any) -> Any:
    """Return a value as reading its JSON would return it; numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(element) for element in value]
    is_not_finite = isinstance(value, float) and not math.isfinite(value)
    return None if is_not_finite else value


def _make_room(folder: Path) -> None:
    """Make the folder, or remove the files of an earlier report from it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return
    try:
        report = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        samples = [sample for model in report["models"] for sample in model["samples"]]
        files = [file for sample in samples for file in sample["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise QpipeError(
            f"{folder}: not empty, and not an earlier samples report; give a new folder"
        ) from None
    for file in (*files, PAGE, INDEX):
        is_plain_name = isinstance(file, str) and Path(file).name == file
        if is_plain_name:  # a path may lead out of the folder
            with suppress(OSError):
                (folder / file).unlink()


def _write_model(folder: Path, number: int, model: SamplesOfModel) -> types.ModelReport:
    """Write the files of a model's samples; return its part of the report."""
    samples = [
        _write_sample(folder, f"{number}-{index:03d}", model, sample)
        for index, sample in enumerate(model.samples)
    ]
    input_names = list(model.samples[0].inputs) if model.samples else []
    statistics = _input_statistics(model, input_names)
    pairs = [
        (sample.target, sample.prediction)
        for sample in model.samples
        if sample.part == "evaluation"
    ]
    scores = [_score_report(score) for score in model.scores]
    is_proven = any(score["value"] > 0 for score in scores)
    return {
        "model": model.name,
        "classes": list(model.class_names),
        "counts": dict(model.part_sizes),
        "decoded": model.has_postprocess,
        "preprocessing": {
            name: _preprocessing_report(model.preprocessing[name]) for name in input_names
        },
        "statistics": statistics,
        "warnings": [
            *input_warnings(statistics, model.preprocessing),
            *([] if is_proven else label_warnings(pairs)),
            *filter(None, [model.unscored]),
        ],
        "right": count_correct_labels(pairs),
        "scores": scores,
        "samples": samples,
    }


def _input_statistics(
    model: SamplesOfModel, input_names: Sequence[str]
) -> list[types.ChannelStatistics]:
    """Return the statistics of each input, for each part of the samples."""
    parts = list(dict.fromkeys(sample.part for sample in model.samples))
    rows = []
    for name in input_names:
        for part in parts:
            tensors = _tensors(model.samples, input_name=name, part=part)
            rows += channel_statistics(
                tensors, model.preprocessing[name], input_name=name, part=part
            )
    return rows


def _score_report(score: Measurement) -> types.ScoreReport:
    return {
        "metric": score.metric,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
    }


def _preprocessing_report(preprocessing: Preprocessing) -> types.PreprocessingReport:
    return {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "layout": preprocessing.layout,
        "dtype": preprocessing.dtype,
    }


def _tensors(samples: Iterable[FedSample], *, input_name: str, part: str) -> list[Array]:
    return [sample.inputs[input_name] for sample in samples if sample.part == part]


def _write_sample(
    folder: Path, stem: str, model: SamplesOfModel, sample: FedSample
) -> types.SampleReport:
    """Write the files of one sample, whose names start with `stem`; return its report."""
    description = describe_prediction(sample.prediction, sample.target, model.class_names)
    inputs = [
        _write_input(folder / f"{stem}-{number}", name, tensor, model, description.boxes)
        for number, (name, tensor) in enumerate(sample.inputs.items())
    ]
    return {
        "id": sample.id,
        "part": sample.part,
        "inputs": inputs,
        "files": [file for report in inputs for file in report["files"]],
        "target": sample.target,
        "prediction": description.json,
        "lines": description.lines,
        "reason": sample.failure,
    }


def _write_input(
    stem: Path, name: str, tensor: Array, model: SamplesOfModel, boxes: Sequence[Box]
) -> types.InputReport:
    """Write the files of one input: `stem` with a suffix, and a picture with boxes on it."""
    view = view_tensor(tensor, model.preprocessing[name], model.sample_rate)
    file = stem.with_name(f"{stem.name}{view.suffix}")
    view.save(file)
    files = [file.name]
    if view.image is not None and boxes:
        boxes_file = stem.with_name(f"{stem.name}-boxes.png")
        draw_boxes(view.image, boxes).save(boxes_file)
        files.append(boxes_file.name)
    return {
        "input": name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "shown_as": view.kind,
        "note": view.note,
        "text": view.text,
        "files": files,
    }
