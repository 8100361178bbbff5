"""Images from two folders, labelled by a CSV or by the folders they lie in."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array, Dataset, Preprocessing, Sample

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """An image file, its name within its folder, and its label: a number, the name of a class, or nothing."""

    file: Path
    name: str
    label: int | str | None


@dataclass(frozen=True)
class Fit:
    """How an image becomes [size, size, 3]."""

    size: int
    resize: int | None
    crop: Literal["center", "none"]
    colours: Literal["RGB", "BGR"]


def images(
    *,
    calibration: Path,
    evaluation: Path,
    mean: float | list[float],
    std: float | list[float],
    calibration_labels: Path | None = None,
    evaluation_labels: Path | None = None,
    size: int = 224,
    resize: int | None = None,
    crop: Literal["center", "none"] = "center",
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    colours: Literal["RGB", "BGR"] = "RGB",
    dtype: Literal["float32", "uint8"] = "float32",
    calibrate: int | None = None,
    evaluate: int | None = None,
) -> Dataset:
    """Images from folders; labels from a CSV (file,label), from class folders, or none.

    The short side is resized to `resize` (else to `size`, where the image is not of that size already; bilinear), then
    the centre cropped; with crop none the whole image is squeezed into the square. The network gets (pixel - mean) /
    std, mean and std in pixels of 0 to 255. `calibrate` and `evaluate` take that many, evenly spread. Classes that have
    names are numbered in the order of these, as the whole of `evaluation` has them.
    """
    chosen = _spread(_pictures(calibration, calibration_labels), calibrate)
    everything = _pictures(evaluation, evaluation_labels)
    scored = _spread(everything, evaluate)
    _check_overlap(chosen, scored)
    # a class keeps its number however few images are taken
    classes = sorted({p.label for p in everything if isinstance(p.label, str)})
    fit = Fit(size, resize, crop, colours)
    how = Preprocessing(_channels(mean, "mean"), _channels(std, "std"), layout, dtype)
    return Dataset(_stream(chosen, classes, fit), _stream(scored, classes, fit), {"image": how}, classes)


def _channels(value: float | list[float], name: str) -> tuple[float, ...]:
    values = (value,) if isinstance(value, int | float) else tuple(value)
    if len(values) not in (1, 3) or (name == "std" and 0 in values):
        raise StageError(f"images: {name} is {value}; give one number, or three, one for each channel")
    return tuple(float(v) for v in values)


# ---- what there is


def _pictures(folder: Path, labels: Path | None) -> list[Picture]:
    """All images of a folder, or those the CSV names, sorted by name."""
    if not folder.is_dir():
        raise StageError(f"images: no folder {folder}; give one with images in it")
    if labels is not None:
        pictures = list(_listed(folder, labels))
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        pictures = [_found(folder, file) for file in files if not file.name.startswith(".")]
    if not pictures:
        raise StageError(f"images: no image in {labels or folder}; put some there")
    return sorted(pictures, key=lambda picture: picture.name)


def _found(folder: Path, file: Path) -> Picture:
    relative = file.relative_to(folder)
    return Picture(file, relative.as_posix(), relative.parts[0] if len(relative.parts) > 1 else None)


def _listed(folder: Path, labels: Path) -> Iterator[Picture]:
    if labels.is_dir():
        hint = "give a CSV with the columns file,label, or null for none"
        raise StageError(f"images: labels {labels} is a folder; {hint}")
    if not labels.is_file():
        raise StageError(f"images: no labels {labels}; give a CSV with the columns file,label")
    with labels.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise StageError(f"{labels}:1: columns are {', '.join(rows.fieldnames or ())}; they must be file,label")
        for row in rows:
            name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
            if Path(name).is_absolute() or ".." in Path(os.path.normpath(name)).parts:
                raise StageError(f"{labels}:{rows.line_num}: '{name}' is not below {folder}; name a file in that")
            if not (folder / name).is_file():
                raise StageError(f"{labels}:{rows.line_num}: no file '{name}' in {folder}; name it relative to that")
            yield Picture(folder / name, name, int(label) if label.lstrip("-").isdigit() else label)


def _spread(pictures: list[Picture], count: int | None) -> list[Picture]:
    if count is None or count >= len(pictures):
        return pictures
    if count < 1:
        raise StageError(f"images: {count} images asked for; ask for at least 1")
    return [pictures[index * len(pictures) // count] for index in range(count)]


def _check_overlap(one: list[Picture], other: list[Picture]) -> None:
    # only files of one size can be the same
    sizes = {p.file.stat().st_size for p in one} & {p.file.stat().st_size for p in other}
    seen = {_digest(p): p for p in one if p.file.stat().st_size in sizes}
    for picture in other:
        if picture.file.stat().st_size in sizes and (same := seen.get(_digest(picture))):
            what = f"{picture.file} is the same as {same.file}"
            raise StageError(f"images: {what}; evaluate on what calibration never saw")


def _digest(picture: Picture) -> bytes:
    with picture.file.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# ---- pixels


def _stream(pictures: list[Picture], classes: Sequence[str], fit: Fit) -> Iterator[Sample]:
    number = {name: index for index, name in enumerate(classes)}
    for picture in pictures:
        target = number.get(picture.label) if isinstance(picture.label, str) else picture.label
        yield Sample(picture.name, {"image": _pixels(picture.file, fit)}, target)


def _pixels(file: Path, fit: Fit) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise StageError(f"images: {file} cannot be read: {error}; replace or remove it") from error
    width, height = image.size
    short = fit.resize or fit.size
    if fit.crop == "none":
        wanted = (fit.size, fit.size)
    elif width <= height:
        wanted = (short, max(short, round(height * short / width)))
    else:
        wanted = (max(short, round(width * short / height)), short)
    if wanted != image.size and not (fit.resize is None and image.size == (fit.size, fit.size)):
        image = image.resize(wanted, Image.Resampling.BILINEAR)
    left, top = (image.width - fit.size) // 2, (image.height - fit.size) // 2
    pixels = np.asarray(image)[top : top + fit.size, left : left + fit.size]
    if pixels.shape[:2] != (fit.size, fit.size):
        raise StageError(f"images: resize is {fit.resize}, less than size {fit.size}; make it at least that")
    return pixels[:, :, ::-1] if fit.colours == "BGR" else pixels
