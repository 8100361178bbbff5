"""Samples of networks, written to a folder: the files, samples.json, and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import QpipeError
from qpipe.report import box_drawing, input_statistics, predictions, samples_page, tensor_pictures
from qpipe.types import Array, Preprocessing

INDEX = "samples.json"
PAGE = "index.html"


@dataclass(frozen=True)
class Look:
    """One sample: what the network is fed with it (batch axis 1 in front), and what came out."""

    id: str
    part: str  # calibration or evaluation
    fed: Mapping[str, Array]
    target: Any = None
    predicted: Any = None  # what the postprocess made of the outputs, or the outputs
    reason: str = ""  # why there is no prediction


@dataclass(frozen=True)
class Subject:
    """A network with its samples."""

    name: str
    preprocessing: Mapping[str, Preprocessing]  # by the network's inputs
    looks: Sequence[Look]
    classes: Sequence[str] = ()
    rate: int | None = None  # of sounds, in Hz
    decoded: bool = False  # there is a postprocess
    counts: Mapping[str, int] = field(default_factory=dict)  # part -> how many samples there are


def write(folder: Path, title: str, subjects: Sequence[Subject]) -> dict[str, Any]:
    """Write a page, a samples.json and the files both refer to; gives what is in samples.json.

    What an earlier call wrote there is replaced. QpipeError for a folder that holds anything else.
    """
    _make_room(folder)
    models = [_subject(folder, number, subject) for number, subject in enumerate(subjects)]
    found: dict[str, Any] = _json({"recipe": title, "models": models})
    (folder / PAGE).write_text(samples_page.page(title, models), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _json(value: Any) -> Any:
    """As JSON gives it back; a number that is none is null."""
    if isinstance(value, Mapping):
        return {str(key): _json(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_json(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _make_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return
    try:
        models = json.loads((folder / INDEX).read_text(encoding="utf-8"))["models"]
        old = [file for model in models for sample in model["samples"] for file in sample["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise QpipeError(
            f"{folder}: not empty, and not a look at samples; give a new folder"
        ) from None
    for file in (*old, PAGE, INDEX):
        if isinstance(file, str) and Path(file).name == file:  # a name, no path
            with suppress(OSError):
                (folder / file).unlink()


def _subject(folder: Path, number: int, subject: Subject) -> dict[str, Any]:
    samples = [
        _sample(folder, f"{number}-{i:03d}", subject, look) for i, look in enumerate(subject.looks)
    ]
    inputs = [name for look in subject.looks[:1] for name in look.fed]
    rows = [
        row
        for name in inputs
        for part in dict.fromkeys(look.part for look in subject.looks)
        for row in input_statistics.rows(
            name, part, _fed(subject.looks, name, part), subject.preprocessing[name]
        )
    ]
    pairs = [(look.target, look.predicted) for look in subject.looks]
    warnings = [
        *input_statistics.warnings(rows, subject.preprocessing),
        *predictions.warnings(pairs),
    ]
    right = predictions.right(pairs)
    return {
        "model": subject.name,
        "classes": list(subject.classes),
        "counts": dict(subject.counts),
        "decoded": subject.decoded,
        "preprocessing": {name: asdict(subject.preprocessing[name]) for name in inputs},
        "statistics": rows,
        "warnings": warnings,
        "right": {"labels": right[0], "of": right[1]} if right else None,
        "samples": samples,
    }


def _fed(looks: Iterable[Look], name: str, part: str) -> list[Array]:
    return [look.fed[name] for look in looks if look.part == part]


def _sample(folder: Path, stem: str, subject: Subject, look: Look) -> dict[str, Any]:
    """Write the files of one sample; what the page says of it."""
    said = predictions.describe(look.predicted, look.target, subject.classes)
    shown = []
    files = []
    for number, (name, tensor) in enumerate(look.fed.items()):
        view = tensor_pictures.view(tensor, subject.preprocessing[name], subject.rate)
        view.save(folder / f"{stem}-{number}{view.suffix}")
        own = [f"{stem}-{number}{view.suffix}"]
        if view.image is not None and said.boxes:
            box_drawing.draw(view.image, said.boxes).save(folder / f"{stem}-{number}-boxes.png")
            own.append(f"{stem}-{number}-boxes.png")
        shown.append(
            {
                "input": name,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype.name,
                "shown_as": view.kind,
                "note": view.note,
                "text": view.text,
                "files": own,
            }
        )
        files += own
    return {
        "id": look.id,
        "part": look.part,
        "inputs": shown,
        "files": files,
        "target": look.target,
        "prediction": said.plain,
        "lines": said.lines,
        "reason": look.reason,
    }
