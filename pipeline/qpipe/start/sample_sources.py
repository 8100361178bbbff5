"""Where samples come from: KIND:PATH as the user gives it, to paths, labels and counts."""

from __future__ import annotations

import csv
import json
import mimetypes
import re
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qpipe.errors import RecipeError
from qpipe.samples.preprocess import FLOATS

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16")

KINDS = ("images", "coco", "npz", "wav")
MIME_PREFIXES = {"images": "image/", "wav": "audio/"}
# names of the folders for calibration and evaluation
PARTS = (
    ("calibration", "evaluation"),
    ("train", "val"),
    ("train", "validation"),
    ("train", "valid"),
    ("train", "test"),
    ("val", "test"),
)
TARGET_NAMES = ("target", "targets", "label", "labels", "y")
# more samples tell little more, and cost time
MOST_CALIBRATION = 256
MOST_EVALUATION = 500
LABEL_COLUMNS = {"file", "label"}
CALIBRATION_COUNT = "calibration_count"
EVALUATION_COUNT = "evaluation_count"


@dataclass(frozen=True)
class Labels:
    """The labels of the evaluation samples: numbers from `lowest` to `highest`, or class names."""

    lowest: int | None = None
    highest: int | None = None
    names: int = 0
    has_two_orders: bool = False  # whether the names are numbers, whose order is not that of texts

    @property
    def description(self) -> str:
        """The labels in words."""
        if self.highest is not None:
            return f"numbers up to {self.highest}"
        if self.has_two_orders:
            return f"{self.names} classes named by numbers, which are taken in numeric order"
        return f"{self.names} named classes"


@dataclass(frozen=True)
class SampleSource:
    """Samples as the recipe will name them."""

    kind: str
    paths: dict[str, Path]  # option -> path
    counts: dict[str, int]  # option -> number of samples to take
    labels: Labels | None = None
    options: dict[str, Any] = field(default_factory=dict)  # others that follow from the files
    notes: Sequence[str] = ()  # assumptions, as comments for the recipe


def find_samples(
    text: str,
    labels: Path | None = None,
    counts: dict[str, int] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> SampleSource:
    """Find the samples of `images:DIR` and the like, for a network with inputs of these types.

    Raise RecipeError where they do not exist, or it is not clear which are for calibration.
    """
    kind, colon, path_text = text.partition(":")
    if not colon or kind not in KINDS or not path_text:
        forms = ", ".join(f"{known_kind}:PATH" for known_kind in KINDS)
        raise RecipeError(f"--samples {text}: no kind of samples; write one of {forms}")
    path = Path(path_text).expanduser()
    if not path.exists():
        fix = "give the path of your samples"
        raise RecipeError(f"--samples {text}: no such file or folder; {fix}")
    if labels and kind not in MIME_PREFIXES:
        raise RecipeError(f"--labels {labels}: {kind} has labels of its own; leave --labels out")
    if labels and not labels.is_file():
        fix = "give a CSV with the columns file,label"
        raise RecipeError(f"--labels {labels}: no such file; {fix}")
    asked_counts = counts or {}
    if kind == "coco":
        return _coco(path, asked_counts)
    if kind == "npz":
        return _npz(path, asked_counts, inputs or {})
    return _files(kind, path, labels, asked_counts)


def find_parts(folder: Path, suffix: str = "") -> tuple[Path, Path] | None:
    """Return the calibration and evaluation part of a folder, by their usual names."""
    for calibration_name, evaluation_name in PARTS:
        calibration = folder / f"{calibration_name}{suffix}"
        evaluation = folder / f"{evaluation_name}{suffix}"
        if calibration.exists() and evaluation.exists():
            return calibration, evaluation
    return None


# ---- folders of files


def _files(
    kind: str, path: Path, labels_file: Path | None, asked_counts: dict[str, int]
) -> SampleSource:
    if not path.is_dir():
        raise RecipeError(f"--samples {kind}:{path}: a file; give the folder of your {kind}")
    calibration, evaluation = find_parts(path) or (None, path)
    labels_file = labels_file or _labels_file(evaluation)
    evaluation_files = _files_of_kind(kind, evaluation)
    if not evaluation_files:
        raise RecipeError(f"--samples {kind}:{path}: no {kind} in {evaluation}; put some there")
    paths: dict[str, Path] = {}
    notes: list[str] = []
    calibration_files: list[Path] = []
    if calibration:
        paths["calibration"] = calibration
        calibration_files = _files_of_kind(kind, calibration)
        if not calibration_files:
            raise RecipeError(
                f"--samples {kind}:{path}: no {kind} in {calibration}; put some there"
            )
    else:
        notes.append(
            f"calibration takes some of the {kind} of evaluation, evenly spread, out of these"
        )
    paths["evaluation"] = evaluation
    evaluation_count = len(evaluation_files)
    labels = _folder_labels(evaluation, evaluation_files)
    if labels_file:
        paths["evaluation_labels"] = labels_file
        values = _label_values(labels_file)
        evaluation_count = len(values)
        labels = _labels(values)
    counts = _counts(asked_counts, len(calibration_files), evaluation_count)
    return SampleSource(kind, paths, counts, labels, notes=notes)


def _files_of_kind(kind: str, folder: Path) -> list[Path]:
    return [
        file
        for file in folder.rglob("*")
        if _is_of_kind(kind, file) and not file.name.startswith(".") and file.is_file()
    ]


def _is_of_kind(kind: str, file: Path) -> bool:
    mime_type, _ = mimetypes.guess_type(file.name, strict=False)
    return (mime_type or "").startswith(MIME_PREFIXES[kind])


def _counts(asked_counts: dict[str, int], calibration: int, evaluation: int) -> dict[str, int]:
    """Return how many samples to take of those that exist.

    Without samples for calibration alone, a third of those for evaluation serve for it.
    """
    available = calibration or max(1, evaluation // 3)
    calibration_count = asked_counts.get(CALIBRATION_COUNT) or min(MOST_CALIBRATION, available)
    remaining = evaluation
    if not calibration:
        remaining = max(1, evaluation - calibration_count)
    evaluation_count = asked_counts.get(EVALUATION_COUNT) or min(MOST_EVALUATION, remaining)
    return {CALIBRATION_COUNT: calibration_count, EVALUATION_COUNT: evaluation_count}


def _labels_file(folder: Path) -> Path | None:
    """Return the CSV that belongs to a folder: beside it by its name, or in it as labels.csv."""
    for file in (folder.parent / f"{folder.name}.csv", folder / "labels.csv"):
        if not file.is_file():
            continue
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            columns = text.readline(1000).strip().split(",")
        if set(columns) >= LABEL_COLUMNS:
            return file
    return None


def _label_values(file: Path) -> list[str]:
    """Return the labels of a CSV; raise RecipeError where it has no such column."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = f"cannot be read: {error}; give a CSV with the columns file,label"
        raise RecipeError(f"--labels {file}: {reason}") from None
    columns = reader.fieldnames or ()
    if not set(columns) >= LABEL_COLUMNS:
        names = ", ".join(columns) or "none"
        raise RecipeError(f"--labels {file}: columns are {names}; they must be file,label")
    return [(row["label"] or "").strip() for row in rows]


def _labels(values: Sequence[str]) -> Labels | None:
    if not any(values):
        return None
    if all(value.isdigit() for value in values):
        numbers = [int(value) for value in values]
        return Labels(lowest=min(numbers), highest=max(numbers))
    return _named_labels(set(values))


def _folder_labels(folder: Path, files: Sequence[Path]) -> Labels | None:
    """Return the labels that folders within the folder stand for."""
    names = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
    return _named_labels(names) if names else None


def _named_labels(names: Set[str]) -> Labels:
    are_numbers = all(re.fullmatch("-?[0-9]+", name) for name in names)
    has_two_orders = are_numbers and sorted(names, key=int) != sorted(names)
    return Labels(names=len(names), has_two_orders=has_two_orders)


# ---- coco


def _coco(path: Path, asked_counts: dict[str, int]) -> SampleSource:
    annotations = path if path.is_file() else _annotations_file(path)
    image_count, first_name = _annotated_images(annotations)
    base = path if path.is_dir() else annotations.parent
    if base.name == "annotations":
        base = base.parent
    stem = annotations.stem.removeprefix("instances_")
    images = _image_folder(path, base, stem, annotations, first_name)
    paths = {"images": images, "annotations": annotations}
    calibration = _calibration_folder(base, stem, images)
    if calibration is None:
        note = "calibration takes some of the annotated images, evenly spread"
        notes = [f"{note}: they are not evaluated"]
        return SampleSource("coco", paths, _counts(asked_counts, 0, image_count), notes=notes)
    paths["calibration"] = calibration
    return SampleSource("coco", paths, _counts(asked_counts, MOST_CALIBRATION, image_count))


def _picture_parts(base: Path) -> Sequence[Path]:
    """Return the folders of pictures for calibration and evaluation; none without such folders."""
    return find_parts(base) or find_parts(base / "images") or ()


def _image_folder(path: Path, base: Path, stem: str, annotations: Path, first_name: str) -> Path:
    """Return the folder that holds the first annotated image."""
    folders = [base / stem, base / "images" / stem, *_picture_parts(base)[1:]]
    folders += [base / "images", base / "val", annotations.parent, base]
    for folder in folders:
        if (folder / first_name).is_file():
            return folder
    reason = f"'{first_name}' of {annotations} is not below {base}"
    raise RecipeError(f"--samples coco:{path}: {reason}; put the images there")


def _calibration_folder(base: Path, stem: str, images: Path) -> Path | None:
    """Return the folder of pictures for calibration alone; None where there is none."""
    names = (stem.replace("val", "train"), "train")
    for folder in (*_picture_parts(base)[:1], *(base / name for name in names)):
        if folder.is_dir() and folder != images:
            return folder
    return None


def _annotations_file(folder: Path) -> Path:
    """Return the annotations of evaluation: in the folder, or beside its pictures."""
    files = sorted(folder.glob("*.json")) + sorted((folder / "annotations").glob("*.json"))
    for pictures in _picture_parts(folder)[1:]:
        files += sorted(pictures.glob("*.json"))
    for_evaluation = [file for file in files if "val" in file.name]
    instances = [file for file in for_evaluation if "instances" in file.name]
    candidates = instances or for_evaluation or files
    if not candidates:
        fix = "put instances_val.json there, or give its path"
        raise RecipeError(f"--samples coco:{folder}: no annotations; {fix}")
    return candidates[0]


def _annotated_images(annotations: Path) -> tuple[int, str]:
    """Return how many images are annotated, and the name of the first."""
    try:
        images = json.loads(annotations.read_bytes())["images"]
        return len(images), str(images[0]["file_name"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        fix = "give COCO's instances as JSON, with images, annotations, categories"
        raise RecipeError(f"--samples coco:{annotations}: no COCO annotations; {fix}") from None


# ---- npz


def _npz(path: Path, asked_counts: dict[str, int], inputs: Mapping[str, str]) -> SampleSource:
    parts = None
    if path.is_dir():
        parts = find_parts(path) or find_parts(path, ".npz")
    if parts is None:
        question = "which are for calibration, which for evaluation?"
        fix = (
            "give a folder with calibration.npz and evaluation.npz, or with folders of these "
            "names that hold one .npz a sample"
        )
        raise RecipeError(f"--samples npz:{path}: {question} {fix}")
    calibration, evaluation = parts
    paths = {"calibration": calibration, "evaluation": evaluation}
    types = _array_types(evaluation)
    target = _target_array(list(types), list(inputs))
    options: dict[str, Any] = {}
    notes: list[str] = []
    if target is not None:
        options["target"] = target
        notes.append(f"the array '{target}' is the target, all others are inputs")
    converted = _converted_types(types, inputs)
    if converted:
        options["dtype"] = converted
        notes.append("arrays are converted to the types that the network takes")
    return SampleSource("npz", paths, dict(asked_counts), options=options, notes=notes)


def _converted_types(types: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the types of inputs whose arrays have another one of the same kind, as int32 has."""
    converted: dict[str, str] = {}
    for name, dtype in inputs.items():
        array_type = types.get(name, dtype)
        are_alike = any({array_type, dtype} <= set(kind) for kind in (FLOATS, INTEGERS))
        if array_type != dtype and are_alike:
            converted[name] = dtype
    return converted


def _target_array(names: Sequence[str], inputs: Sequence[str]) -> str | None:
    """Return the array that is the target: by its name, or as the only one beside the inputs."""
    others = [name for name in names if name not in inputs]
    for name in TARGET_NAMES:
        if name in others:
            return name
    if len(others) == 1 and len(names) > len(inputs):
        return others[0]
    return None


def _array_types(path: Path) -> dict[str, str]:
    """Return the types of the arrays of the first sample, or of all, by their names."""
    import numpy as np

    files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    try:
        with np.load(files[0], allow_pickle=False) as archive:
            return {name: _type_in_archive(archive, name) for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, LookupError, RuntimeError):
        return {}  # the stage reports what is wrong with it


def _type_in_archive(archive: NpzFile, name: str) -> str:
    """Return the type of an array by its header, without reading the array."""
    from numpy.lib import format as npy

    assert archive.zip is not None
    with archive.zip.open(f"{name}.npy") as file:
        is_oldest = npy.read_magic(file) == (1, 0)
        read_header = npy.read_array_header_1_0 if is_oldest else npy.read_array_header_2_0
        _, _, dtype = read_header(file)
    return str(dtype.name)


# ---- wav


class WavFormat(NamedTuple):
    """Rate in Hz and length in seconds of a .wav file."""

    rate: int
    seconds: float


def wav_format(folder: Path) -> WavFormat | None:
    """Return the format of a folder's first .wav file, by its header; None where there is none."""
    files = sorted(folder.rglob("*.wav"))
    if not files:
        return None
    content = files[0].read_bytes()
    position = 12
    rate = 0
    bytes_per_second = 0
    while position + 8 <= len(content):
        name = content[position : position + 4]
        length = struct.unpack("<I", content[position + 4 : position + 8])[0]
        if name == b"fmt " and position + 20 <= len(content):
            rate, bytes_per_second = struct.unpack("<II", content[position + 12 : position + 20])
        if name == b"data" and rate and bytes_per_second:
            data_length = min(length, len(content) - position - 8)
            return WavFormat(rate, data_length / bytes_per_second)
        position += 8 + length + length % 2
    return None
