"""Where samples come from: KIND:PATH as a user gives it, to the parts, labels and counts of what lies there."""

from __future__ import annotations

import csv
import json
import mimetypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import RecipeError

KINDS = ("images", "coco", "npz", "wav")
PARTS = (
    ("calibration", "evaluation"),
    ("train", "val"),
    ("train", "validation"),
    ("train", "valid"),
    ("train", "test"),
    ("val", "test"),
)
TARGETS = ("target", "targets", "label", "labels", "y")
MOST = {
    "calibrate": 256,
    "evaluate": 500,
}  # more samples than these tell little more, and cost time
FILES = {"images": "image/", "wav": "audio/"}


@dataclass(frozen=True)
class Labels:
    """What the evaluation samples' labels are: numbers up to `highest`, or `names` of classes."""

    highest: int | None = None
    names: int = 0

    @property
    def told(self) -> str:
        """In words."""
        return (
            f"numbers up to {self.highest}"
            if self.highest is not None
            else f"{self.names} named classes"
        )


@dataclass(frozen=True)
class Source:
    """Samples as an option of the recipe will name them."""

    kind: str
    paths: dict[str, Path]  # option -> path
    counts: dict[str, int]  # calibrate, evaluate: how many to take
    labels: Labels | None = None
    options: dict[str, Any] = field(default_factory=dict)  # others that follow from what lies there
    notes: Sequence[str] = ()  # what was assumed


def find(
    given: str,
    labels: Path | None = None,
    counts: dict[str, int] | None = None,
    inputs: Sequence[str] = (),
) -> Source:
    """`images:DIR` and the like, for a network with these inputs; RecipeError where that is not there or cannot be told
    apart."""
    kind, colon, text = given.partition(":")
    if not colon or kind not in KINDS or not text:
        kinds = ", ".join(f"{each}:PATH" for each in KINDS)
        raise RecipeError(f"--samples {given}: no kind of samples; write one of {kinds}")
    path = Path(text).expanduser()
    if not path.exists():
        raise RecipeError(
            f"--samples {given}: no such file or folder; give the path of your samples"
        )
    if labels and kind not in FILES:
        raise RecipeError(f"--labels {labels}: {kind} brings its own; leave --labels out")
    if labels and not labels.is_file():
        raise RecipeError(
            f"--labels {labels}: no such file; give a CSV with the columns file,label"
        )
    asked = counts or {}
    if kind == "coco":
        return _coco(path, asked)
    return _npz(path, asked, inputs) if kind == "npz" else _files(kind, path, labels, asked)


def parts(folder: Path, suffix: str = "") -> tuple[Path, Path] | None:
    """The two parts in a folder, calibration and evaluation, by the names they usually have."""
    for names in PARTS:
        one, other = (folder / f"{name}{suffix}" for name in names)
        if one.exists() and other.exists():
            return one, other
    return None


# ---- folders of files


def _files(kind: str, path: Path, labels: Path | None, asked: dict[str, int]) -> Source:
    if not path.is_dir():
        raise RecipeError(f"--samples {kind}:{path}: a file; give the folder of your {kind}")
    found = parts(path)
    evaluation = found[1] if found else path
    labels = labels or _labels_beside(evaluation)
    many = _listed(kind, evaluation)
    if not many:
        raise RecipeError(f"--samples {kind}:{path}: no {kind} in {evaluation}; put some there")
    paths = {"calibration": found[0]} if found else {}
    paths["evaluation"] = evaluation
    if labels:
        paths["evaluation_labels"] = labels
    here = len(_rows(labels)) if labels else len(many)
    notes = (
        []
        if found
        else [f"calibration takes some of the {kind} of evaluation, evenly spread, out of these"]
    )
    apart = len(_listed(kind, found[0])) if found else 0
    if found and not apart:
        raise RecipeError(f"--samples {kind}:{path}: no {kind} in {found[0]}; put some there")
    counts = _counts(asked, apart, here)
    return Source(
        kind,
        paths,
        counts,
        _labels_of(labels) if labels else _folders(evaluation, many),
        notes=notes,
    )


def _listed(kind: str, folder: Path) -> list[Path]:
    def fits(file: Path) -> bool:
        return (mimetypes.guess_type(file.name, strict=False)[0] or "").startswith(FILES[kind])

    return [
        file
        for file in folder.rglob("*")
        if fits(file) and not file.name.startswith(".") and file.is_file()
    ]


def _counts(asked: dict[str, int], calibration: int, evaluation: int) -> dict[str, int]:
    """How many to take of those there are; where none are apart for calibration, a third of the others."""
    calibrate = asked.get("calibrate") or min(
        MOST["calibrate"], calibration or max(1, evaluation // 3)
    )
    left = evaluation if calibration else max(1, evaluation - calibrate)
    return {
        "calibrate": calibrate,
        "evaluate": asked.get("evaluate") or min(MOST["evaluate"], left),
    }


def _labels_beside(folder: Path) -> Path | None:
    """A CSV that belongs to a folder: beside it by its name, or in it as labels.csv."""
    for file in (folder.parent / f"{folder.name}.csv", folder / "labels.csv"):
        if file.is_file():
            with file.open(encoding="utf-8-sig", errors="replace") as text:
                columns = text.readline(1000).strip().split(",")
            if {"file", "label"} <= set(columns):
                return file
    return None


def _rows(labels: Path) -> list[str]:
    """The labels of a CSV; RecipeError where it has no such column."""
    try:
        with labels.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = f"cannot be read: {error}; give a CSV with the columns file,label"
        raise RecipeError(f"--labels {labels}: {reason}") from None
    if not {"file", "label"} <= set(reader.fieldnames or ()):
        columns = ", ".join(reader.fieldnames or ()) or "none"
        raise RecipeError(f"--labels {labels}: columns are {columns}; they must be file,label")
    return [(row["label"] or "").strip() for row in rows]


def _labels_of(labels: Path) -> Labels | None:
    rows = _rows(labels)
    if not any(rows):
        return None
    if all(row.isdigit() for row in rows):
        return Labels(highest=max(map(int, rows)))
    return Labels(names=len(set(rows)))


def _folders(folder: Path, files: list[Path]) -> Labels | None:
    names = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
    return Labels(names=len(names)) if names else None


# ---- coco


def _coco(path: Path, asked: dict[str, int]) -> Source:
    annotations = path if path.is_file() else _annotations(path)
    count, example = _pictures(annotations)
    base = path if path.is_dir() else annotations.parent
    base = base.parent if base.name == "annotations" else base
    stem = annotations.stem.removeprefix("instances_")
    near = [base / stem, base / "images" / stem, base / "images", base / "val", base]
    folder = next((each for each in near if (each / example).is_file()), None)
    if folder is None:
        missing = f"'{example}' of {annotations} is not below {base}"
        raise RecipeError(f"--samples coco:{path}: {missing}; put the images there")
    train = next(
        (base / each for each in (stem.replace("val", "train"), "train") if (base / each).is_dir()),
        None,
    )
    paths = {"images": folder, "annotations": annotations}
    notes = [
        "calibration takes some of the annotated images, evenly spread: they are not evaluated"
    ]
    if train and train != folder:
        paths["calibration"] = train
        notes = []
    counts = _counts(asked, 0 if notes else MOST["calibrate"], count)
    return Source("coco", paths, counts, notes=notes)


def _annotations(folder: Path) -> Path:
    found = sorted(folder.glob("*.json")) + sorted((folder / "annotations").glob("*.json"))
    usual = [file for file in found if "instances" in file.name and "val" in file.name]
    valued = usual or [file for file in found if "val" in file.name] or found
    if not valued:
        raise RecipeError(
            f"--samples coco:{folder}: no annotations; put instances_val.json there, or give its path"
        )
    return valued[0]


def _pictures(annotations: Path) -> tuple[int, str]:
    """How many images are annotated, and the name of the first."""
    try:
        images = json.loads(annotations.read_bytes())["images"]
        return len(images), str(images[0]["file_name"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        wanted = "give COCO's instances as JSON, with images, annotations, categories"
        raise RecipeError(f"--samples coco:{annotations}: no COCO annotations; {wanted}") from None


# ---- npz


def _npz(path: Path, asked: dict[str, int], inputs: Sequence[str]) -> Source:
    found = (parts(path) or parts(path, ".npz")) if path.is_dir() else None
    if found is None:
        wanted = "give a folder with calibration.npz and evaluation.npz, or with folders of one .npz a sample so called"
        raise RecipeError(
            f"--samples npz:{path}: which are for calibration, which for evaluation? {wanted}"
        )
    names = _arrays(found[1])
    others = [name for name in names if name not in inputs]
    alone = others[0] if len(others) == 1 and len(names) > len(inputs) else None
    target = next((name for name in TARGETS if name in others), alone)
    options = {"target": target} if target else {}
    notes = [f"the array '{target}' is the target, all others are inputs"] if target else []
    return Source(
        "npz", {"calibration": found[0], "evaluation": found[1]}, dict(asked), None, options, notes
    )


def _arrays(path: Path) -> list[str]:
    import numpy as np

    file = next(iter(sorted(path.rglob("*.npz"))), None) if path.is_dir() else path
    try:
        with np.load(file or path, allow_pickle=False) as archive:
            return list(archive.files)
    except (OSError, ValueError, EOFError, AttributeError, TypeError):
        return []  # the stage says what is wrong with it


# ---- wav


def sound(folder: Path) -> tuple[int, float] | None:
    """Rate and seconds of a folder's first .wav file, by its header; None where that is no such file."""
    for file in sorted(folder.rglob("*.wav"))[:1]:
        header = file.read_bytes()
        place = 12
        rate = 0
        per_second = 0
        while place + 8 <= len(header):
            name = header[place : place + 4]
            length = struct.unpack("<I", header[place + 4 : place + 8])[0]
            if name == b"fmt " and place + 20 <= len(header):
                rate, per_second = struct.unpack("<II", header[place + 12 : place + 20])
            if name == b"data" and rate and per_second:
                return rate, min(length, len(header) - place - 8) / per_second
            place += 8 + length + length % 2
    return None
