"""COCO annotations: a JSON file of images, categories and boxes, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from qpipe.errors import StageError
from qpipe_plugins.samples.labelled_files import is_below

LARGEST_FILE = 1 << 30  # bytes; the largest of COCO's own has half of that
LONGEST_SIDE = 10_000_000  # pixels

# an entry of a list in the file, as JSON holds it
Entry = Mapping[str, Any]


class SourceBox(NamedTuple):
    """A box in pixels of the image, as COCO has it."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what is in it, in its own pixels; labels count from 0."""

    file: Path
    name: str
    size: tuple[int, int] | None = None  # width, height, where the annotations have them
    boxes: list[SourceBox] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowds: list[int] = field(default_factory=list)


def read_annotations(annotations: Path, folder: Path) -> tuple[list[AnnotatedImage], list[str]]:
    """Return the images by name, and the category names in the order of the category ids.

    The files of the images are relative to the folder. Raise StageError, with file and id, for
    what COCO's format does not allow.
    """
    where = f"coco: {annotations}"
    content = _read_json(annotations, where)
    category_entries = _list(content, "categories", where)
    categories = {_id(entry, "category", where): entry for entry in category_entries}
    ordered_ids = sorted(categories)
    labels = {category_id: label for label, category_id in enumerate(ordered_ids)}
    images = _read_images(content, folder, where)
    if not images or not labels:
        counts = f"{len(images)} images and {len(labels)} categories"
        raise StageError(f"{where}: there are {counts}; there must be at least one of each")
    for number, entry in enumerate(_list(content, "annotations", where)):
        name = entry.get("id", f"number {number}")
        _add_annotation(entry, images, labels, f"{where}: annotation {name}")
    names = [str(categories[category_id].get("name", category_id)) for category_id in ordered_ids]
    return sorted(images.values(), key=lambda image: image.name), names


def _read_json(file: Path, where: str) -> Entry:
    if not file.is_file():
        raise StageError(f"{where}: no such file; give the instances of COCO annotations as JSON")
    size = file.stat().st_size
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE / 1e6:.0f} MB"
        raise StageError(f"{where}: it has {size / 1e6:.0f} MB; annotations have at most {limit}")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StageError(f"{where}: not JSON: {error}; download or export it again") from error
    if not isinstance(content, dict):
        hint = "they are an object with images, annotations and categories"
        raise StageError(f"{where}: not COCO annotations; {hint}")
    return content


def _list(content: Entry, name: str, where: str) -> Iterator[Entry]:
    entries = content.get(name)
    if not isinstance(entries, list):
        hint = "COCO annotations have images, annotations and categories"
        raise StageError(f"{where}: no list '{name}'; {hint}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problem = f"entry {number} of {name} is {entry!r:.50}"
            raise StageError(f"{where}: {problem}; it must be an object")
        yield entry


def _id(entry: Entry, noun: str, where: str) -> int:
    identity = entry.get("id")
    if type(identity) is not int:
        problem = f"the id of a {noun} is {identity!r:.50}"
        raise StageError(f"{where}: {problem}; it must be a whole number")
    return identity


def _read_images(content: Entry, folder: Path, where: str) -> dict[int, AnnotatedImage]:
    images: dict[int, AnnotatedImage] = {}
    for entry in _list(content, "images", where):
        identity = _id(entry, "image", where)
        if identity in images:
            raise StageError(f"{where}: two images have the id {identity}; ids must be unique")
        images[identity] = _read_image(entry, folder, f"{where}: image {identity}")
    return images


def _read_image(entry: Entry, folder: Path, where: str) -> AnnotatedImage:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or not is_below(name):
        hint = f"it must name a file below {folder}"
        raise StageError(f"{where}: file_name is {name!r:.100}; {hint}")
    width = entry.get("width")
    height = entry.get("height")
    if _is_side(width) and _is_side(height):
        return AnnotatedImage(folder / name, name, (width, height))
    return AnnotatedImage(folder / name, name)


def _is_side(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= LONGEST_SIDE


def _add_annotation(
    entry: Entry,
    images: Mapping[int, AnnotatedImage],
    labels: Mapping[int, int],
    where: str,
) -> None:
    """Check an annotation and add it to its image."""
    image_id = entry.get("image_id")
    if not isinstance(image_id, int) or image_id not in images:
        problem = f"image_id is {image_id!r:.50}, but no image has that id"
        raise StageError(f"{where}: {problem}; add the image to images")
    category_id = entry.get("category_id")
    if not isinstance(category_id, int) or category_id not in labels:
        problem = f"category_id is {category_id!r:.50}, but no category has that id"
        raise StageError(f"{where}: {problem}; the ids are {min(labels)} to {max(labels)}")
    box = _read_box(entry.get("bbox"))
    if box is None:
        problem = f"bbox is {entry.get('bbox')!r:.100}"
        raise StageError(f"{where}: {problem}; it must be [x, y, width, height] in pixels")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise StageError(f"{where}: iscrowd is {crowd!r:.50}; it must be 0 or 1")
    image = images[image_id]
    image.boxes.append(box)
    image.labels.append(labels[category_id])
    image.crowds.append(int(crowd))


def _read_box(value: Any) -> SourceBox | None:
    """Return the box; None where it is not four finite numbers, width and height at least 0."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if any(type(number) not in (int, float) for number in value):
        return None
    if any(abs(number) > LONGEST_SIDE for number in value):
        return None
    box = SourceBox(*(float(number) for number in value))
    if not all(map(math.isfinite, box)) or box.width < 0 or box.height < 0:
        return None
    return box
