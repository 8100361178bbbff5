"""COCO's annotations: a JSON file of images, categories and boxes, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpipe.errors import StageError
from qpipe_plugins.samples.labelled_files import is_below


@dataclass(frozen=True)
class Annotated:
    """A picture and what is in it, in its own pixels: boxes as x, y, width, height; labels count from 0."""

    file: Path
    name: str
    size: tuple[int, int] | None = None  # width, height, where the annotations say so
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowds: list[int] = field(default_factory=list)


def read(annotations: Path, folder: Path) -> tuple[list[Annotated], list[str]]:
    """The pictures, sorted by name, their files relative to the folder; and the names of the categories in the order of
    their ids. StageError, naming file and id, for what COCO's format does not allow."""
    where = f"coco: {annotations}"
    content = _content(annotations, where)
    categories = {
        _id(entry, "category", where): entry for entry in _entries(content, "categories", where)
    }
    labels = {identity: label for label, identity in enumerate(sorted(categories))}
    pictures: dict[int, Annotated] = {}
    for entry in _entries(content, "images", where):
        identity = _id(entry, "image", where)
        if identity in pictures:
            raise StageError(f"{where}: two images have the id {identity}; ids must differ")
        pictures[identity] = _picture(entry, folder, f"{where}: image {identity}")
    if not pictures or not labels:
        raise StageError(
            f"{where}: there are {len(pictures)} images and {len(labels)} categories; give some of both"
        )
    for number, entry in enumerate(_entries(content, "annotations", where)):
        _add(entry, pictures, labels, f"{where}: annotation {entry.get('id', f'number {number}')}")
    names = [str(categories[identity].get("name", identity)) for identity in labels]
    return sorted(pictures.values(), key=lambda each: each.name), names


def _content(file: Path, where: str) -> dict[str, Any]:
    if not file.is_file():
        raise StageError(f"{where}: no such file; give COCO's instances as JSON")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StageError(f"{where}: no JSON: {error}; download or export it again") from error
    if not isinstance(content, dict):
        raise StageError(
            f"{where}: no COCO annotations; they are an object with images, annotations, categories"
        )
    return content


def _entries(content: Mapping[str, Any], name: str, where: str) -> Iterator[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise StageError(
            f"{where}: no list '{name}'; COCO annotations have images, annotations and categories"
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise StageError(
                f"{where}: number {number} of {name} is {entry!r:.50}; it must be an object"
            )
        yield entry


def _id(entry: Mapping[str, Any], what: str, where: str) -> int:
    identity = entry.get("id")
    if type(identity) is not int:
        raise StageError(
            f"{where}: the id of a {what} is {identity!r:.50}; it must be a whole number"
        )
    return identity


def _picture(entry: Mapping[str, Any], folder: Path, where: str) -> Annotated:
    name = entry.get("file_name")
    size = (entry.get("width"), entry.get("height"))
    if not isinstance(name, str) or not name or not is_below(name):
        raise StageError(f"{where}: file_name is {name!r:.100}; it must name a file below {folder}")
    known = all(type(side) is int and side > 0 for side in size)
    return Annotated(folder / name, name, size if known else None)  # type: ignore[arg-type]


def _add(
    entry: Mapping[str, Any],
    pictures: Mapping[int, Annotated],
    labels: Mapping[int, int],
    where: str,
) -> None:
    image = entry.get("image_id")
    category = entry.get("category_id")
    box = _box(entry.get("bbox"))
    crowd = entry.get("iscrowd", 0)
    if not isinstance(image, int) or image not in pictures:
        raise StageError(
            f"{where}: image_id is {image!r:.50}, which no image has; give each image its entry"
        )
    if not isinstance(category, int) or category not in labels:
        known = f"{min(labels)} to {max(labels)}"
        raise StageError(
            f"{where}: category_id is {category!r:.50}, which no category has; they have {known}"
        )
    if box is None:
        raise StageError(
            f"{where}: bbox is {entry.get('bbox')!r:.100}; it must be [x, y, width, height] in pixels"
        )
    if crowd not in (0, 1):
        raise StageError(f"{where}: iscrowd is {crowd!r:.50}; it must be 0 or 1")
    pictures[image].boxes.append(box)
    pictures[image].labels.append(labels[category])
    pictures[image].crowds.append(int(crowd))


def _box(given: Any) -> list[float] | None:
    if (
        not isinstance(given, list)
        or len(given) != 4
        or not all(type(number) in (int, float) for number in given)
    ):
        return None
    box = [float(number) for number in given]
    return box if all(map(math.isfinite, box)) and min(box[2:]) >= 0 else None
