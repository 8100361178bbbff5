"""What samples that come as files share: folders and labels, taking some, and keeping two parts apart."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from qpipe.errors import StageError


class OnDisk(Protocol):
    """Something that is in a file."""

    @property
    def file(self) -> Path: ...


WHOLE = re.compile(r"-?[0-9]{1,9}")  # a label that is a number

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=OnDisk)


@dataclass(frozen=True)
class Labelled:
    """A file, its name within its folder, and its label: a number, the name of a class, or nothing."""

    file: Path
    name: str
    label: int | str | None = None


def find(
    stage: str, what: str, suffixes: set[str], folder: Path, labels: Path | None = None
) -> list[Labelled]:
    """All files of a folder with these suffixes, or those the CSV (file,label) names, sorted by name; the label of a
    file in a folder within the folder is that one's name. StageError where there is none."""
    if not folder.is_dir():
        raise StageError(f"{stage}: no folder {folder}; give one with {what}s in it")
    if labels is not None:
        files = list(_listed(stage, folder, labels))
    else:
        paths = (
            path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file()
        )
        files = [_found(folder, path) for path in paths if not path.name.startswith(".")]
    if not files:
        raise StageError(f"{stage}: no {what} in {labels or folder}; put some there")
    return sorted(files, key=lambda each: each.name)


def _found(folder: Path, file: Path) -> Labelled:
    relative = file.relative_to(folder)
    return Labelled(
        file, relative.as_posix(), relative.parts[0] if len(relative.parts) > 1 else None
    )


def _listed(stage: str, folder: Path, labels: Path) -> Iterator[Labelled]:
    if labels.is_dir():
        hint = "give a CSV with the columns file,label, or null for none"
        raise StageError(f"{stage}: labels {labels} is a folder; {hint}")
    if not labels.is_file():
        raise StageError(f"{stage}: no labels {labels}; give a CSV with the columns file,label")
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(
            f"{labels}: not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    with io.StringIO(text, newline="") as lines:
        rows = csv.DictReader(lines)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise StageError(
                f"{labels}:1: columns are {', '.join(rows.fieldnames or ())}; they must be file,label"
            )
        for row in rows:
            name = (row["file"] or "").strip()
            label = (row["label"] or "").strip()
            if not is_below(name):
                raise StageError(
                    f"{labels}:{rows.line_num}: '{name}' is not below {folder}; name a file in that"
                )
            if not (folder / name).is_file():
                raise StageError(
                    f"{labels}:{rows.line_num}: no file '{name}' in {folder}; name it relative to that"
                )
            yield Labelled(folder / name, name, int(label) if WHOLE.fullmatch(label) else label)


def is_below(name: str) -> bool:
    """Whether a name that somebody wrote, taken as a path from a folder, stays within it."""
    return not Path(name).is_absolute() and ".." not in Path(os.path.normpath(name)).parts


def class_names(files: Sequence[Labelled]) -> list[str]:
    """The classes that have names, in the order of these."""
    return sorted({each.label for each in files if isinstance(each.label, str)})


def target(file: Labelled, classes: Sequence[str]) -> int | None:
    """The number of a file's class; None where it has none, or one that is not among the classes."""
    if isinstance(file.label, str):
        return classes.index(file.label) if file.label in classes else None
    return file.label


def spread(stage: str, what: str, items: Sequence[T], count: int | None) -> list[T]:
    """That many of them, or all where there are not so many, evenly spread."""
    if count is None or count >= len(items):
        return list(items)
    if count < 1:
        raise StageError(f"{stage}: {count} {what}s asked for; ask for at least 1")
    return [items[index * len(items) // count] for index in range(count)]


def divided(
    stage: str, what: str, items: Sequence[T], count: int | None
) -> tuple[list[T], list[T]]:
    """That many of them for calibration, evenly spread, and the others for evaluation."""
    if count is None or count >= len(items):
        asked = f"calibrate is {count}" if count else "calibrate is not set"
        hint = f"set calibrate to less than the {len(items)} {what}s of evaluation, or give a folder calibration"
        raise StageError(f"{stage}: calibration is not given and {asked}; {hint}")
    chosen = spread(stage, what, range(len(items)), count)
    rest = sorted(set(range(len(items))) - set(chosen))
    return [items[index] for index in chosen], [items[index] for index in rest]


def check_disjoint(stage: str, calibration: Sequence[Path], evaluation: Sequence[Path]) -> None:
    """StageError where a file of one part is, to the last byte, one of the other: told before anything is decoded."""
    lengths = [
        {path: path.stat().st_size for path in part if path.is_file()}
        for part in (calibration, evaluation)
    ]
    common = set(lengths[0].values()) & set(
        lengths[1].values()
    )  # only files of one length can be the same
    seen = {_digest(path): path for path, length in lengths[0].items() if length in common}
    for path, length in lengths[1].items():
        if length in common and (same := seen.get(_digest(path))):
            raise StageError(
                f"{stage}: {path} is the same as {same}; evaluate on what calibration never saw"
            )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_each(
    stage: str,
    what: str,
    items: Sequence[F],
    read: Callable[[F], R],
    failures: tuple[type[Exception], ...],
) -> Iterator[tuple[F, R]]:
    """Each item with what `read` makes of its file. StageError at the end where some cannot be read, which is when
    `read` raises one of `failures`: all are named at once."""
    broken = {}
    for item in items:
        try:
            content = read(item)
        except StageError:
            raise
        except failures as error:
            broken[item.file] = reason(item.file, error)
        else:
            yield item, content
    check_read(stage, what, broken, len(items))


def reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if not file.is_file():
        return "no such file"
    return " ".join(str(error).split()) if file.stat().st_size else "empty"


def check_read(stage: str, what: str, broken: dict[Path, str], total: int) -> None:
    """StageError naming the first few files that cannot be read, with why, and how many there are."""
    if broken:
        shown = [f"{path} ({why})" for path, why in list(broken.items())[:3]]
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        said = f"{len(broken)} of {total} {what}s cannot be read: {', '.join(shown)}{more}"
        raise StageError(f"{stage}: {said}; replace or remove them")
