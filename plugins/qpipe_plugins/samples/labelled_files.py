"""Samples that are files in folders: finding and labelling them, splitting and reading them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar, overload

from qpipe.digests import digest_file
from qpipe.errors import StageError
from qpipe.samples.selection import take_evenly
from qpipe.types import Sample

INTEGER_LABEL = re.compile(r"-?[0-9]{1,9}")
LABEL_COLUMNS = {"file", "label"}
MAX_FILES_IN_MESSAGE = 3
# the order in which classes are numbered; "number" is that of names that are whole numbers
ClassOrder = Literal["number", "name"]


class HasFile(Protocol):
    """Something that is stored in a file."""

    @property
    def file(self) -> Path: ...


Item = TypeVar("Item")
FileItem = TypeVar("FileItem", bound=HasFile)
Content = TypeVar("Content")


@dataclass(frozen=True)
class FileKind:
    """The files that a samples stage reads; stage and noun appear in messages."""

    stage: str
    noun: str  # of one file: `image`
    suffixes: frozenset[str]


@dataclass(frozen=True)
class LabelledFile:
    """A file, its path within its folder, and its label: a number, the name of a class, or none."""

    file: Path
    name: str
    label: int | str | None = None


@dataclass(frozen=True)
class SelectedFiles:
    """The files of both parts, and the names of the classes."""

    calibration: list[LabelledFile]
    evaluation: list[LabelledFile]
    classes: list[str]


# ---- finding


def find_files(kind: FileKind, folder: Path, labels: Path | None = None) -> list[LabelledFile]:
    """Return all files of a kind in a folder, or those that the CSV (file,label) lists, by name.

    Without a CSV, the label of a file is the name of the folder within the folder that it lies in.
    Raise StageError where there is no file.
    """
    if not folder.is_dir():
        raise StageError(f"{kind.stage}: no folder {folder}; give one with {kind.noun}s in it")
    if labels is None:
        files = _files_below(folder, kind.suffixes)
    else:
        files = _read_labels(kind.stage, labels, folder)
    if not files:
        raise StageError(f"{kind.stage}: no {kind.noun} in {labels or folder}; add at least one")
    return sorted(files, key=lambda labelled: labelled.name)


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[LabelledFile]:
    files = []
    for path in folder.rglob("*"):
        is_hidden = path.name.startswith(".")
        if path.suffix.lower() in suffixes and path.is_file() and not is_hidden:
            relative = path.relative_to(folder)
            label = relative.parts[0] if len(relative.parts) > 1 else None
            files.append(LabelledFile(path, relative.as_posix(), label))
    return files


def _read_labels(stage: str, labels: Path, folder: Path) -> list[LabelledFile]:
    if labels.is_dir():
        hint = "give a CSV with the columns file,label, or null for none"
        raise StageError(f"{stage}: labels {labels} is a folder; {hint}")
    if not labels.is_file():
        hint = "give a CSV with the columns file,label"
        raise StageError(f"{stage}: there is no file {labels} with labels; {hint}")
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        raise StageError(f"{labels}: not UTF-8: {problem}; save it as UTF-8") from error
    files = []
    with io.StringIO(text, newline="") as lines:
        rows = csv.DictReader(lines)
        columns = rows.fieldnames or ()
        if not LABEL_COLUMNS.issubset(columns):
            message = f"columns are {', '.join(columns)}; they must be file,label"
            raise StageError(f"{labels}:1: {message}")
        for row in rows:
            files.append(_labelled_file(row, folder, f"{labels}:{rows.line_num}"))
    return files


def _labelled_file(row: Mapping[str, str | None], folder: Path, where: str) -> LabelledFile:
    name = (row["file"] or "").strip()
    label = (row["label"] or "").strip()
    if not is_below(name):
        raise StageError(f"{where}: '{name}' is not below {folder}; name a file in that folder")
    if not (folder / name).is_file():
        hint = "give its path relative to that folder"
        raise StageError(f"{where}: no file '{name}' in {folder}; {hint}")
    if INTEGER_LABEL.fullmatch(label):
        return LabelledFile(folder / name, name, int(label))
    return LabelledFile(folder / name, name, label)


def is_below(name: str) -> bool:
    """Return whether a path that a user wrote, relative to a folder, stays within the folder."""
    normalized = Path(os.path.normpath(name))
    return not Path(name).is_absolute() and ".." not in normalized.parts


# ---- classes


def class_names(files: Sequence[LabelledFile], order: ClassOrder = "number") -> list[str]:
    """Return the names among the labels in the order in which they are numbered.

    With order "number", names that are all whole numbers stand in the order of these: 2 before 10.
    """
    names = {labelled.label for labelled in files if isinstance(labelled.label, str)}
    if order == "number" and all(INTEGER_LABEL.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_number(labelled: LabelledFile, classes: Sequence[str]) -> int | None:
    """Return the number of a file's class; None where it has none or one that is not a class."""
    if isinstance(labelled.label, int):
        return labelled.label
    if labelled.label in classes:
        return classes.index(labelled.label)
    return None


# ---- the two parts


def select_files(
    kind: FileKind,
    *,
    calibration: Path | None,
    calibration_labels: Path | None,
    calibration_count: int | None,
    evaluation: Path,
    evaluation_labels: Path | None,
    evaluation_count: int | None,
    class_order: ClassOrder,
) -> SelectedFiles:
    """Return the files of both parts, as many as asked for, evenly spread.

    Without a folder for calibration, files of the evaluation folder serve for it, and these are
    not evaluated. The classes are those of the whole evaluation folder, so that a class keeps its
    number however few files are taken.
    """
    check_counts(kind.stage, calibration_count=calibration_count, evaluation_count=evaluation_count)
    if calibration is None:
        labelled_files = find_files(kind, evaluation, evaluation_labels)
        calibration_files, other_files = _split(kind, labelled_files, calibration_count)
    else:
        all_calibration_files = find_files(kind, calibration, calibration_labels)
        labelled_files = find_files(kind, evaluation, evaluation_labels)
        calibration_files = take_evenly(all_calibration_files, calibration_count)
        other_files = labelled_files
    return SelectedFiles(
        calibration_files,
        take_evenly(other_files, evaluation_count),
        class_names(labelled_files, class_order),
    )


def _split(
    kind: FileKind, files: Sequence[LabelledFile], count: int | None
) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Return the files for calibration, evenly spread, and the others."""
    if count is None or count >= len(files):
        state = "not set" if count is None else str(count)
        raise StageError(
            f"{kind.stage}: calibration is not given and calibration_count is {state}; set "
            f"calibration_count to less than the {len(files)} {kind.noun}s of evaluation, "
            "or give a folder calibration"
        )
    return split_evenly(files, count)


def check_counts(
    stage: str, *, calibration_count: int | None, evaluation_count: int | None
) -> None:
    """Raise StageError where a number of samples is below 1."""
    counts = {"calibration_count": calibration_count, "evaluation_count": evaluation_count}
    for option, count in counts.items():
        if count is not None and count < 1:
            raise StageError(f"{stage}: {option} is {count}; it must be at least 1")


def split_evenly(items: Sequence[Item], count: int) -> tuple[list[Item], list[Item]]:
    """Return that many items, evenly spread, and the others."""
    taken_indices = take_evenly(range(len(items)), count)
    other_indices = sorted(set(range(len(items))) - set(taken_indices))
    return [items[index] for index in taken_indices], [items[index] for index in other_indices]


def check_disjoint(
    stage: str, *, calibration: Sequence[HasFile], evaluation: Sequence[HasFile]
) -> None:
    """Raise StageError where a file of one part equals one of the other, to the last byte.

    No file is decoded, and only files of equal size are read.
    """
    calibration_sizes = _file_sizes(calibration)
    evaluation_sizes = _file_sizes(evaluation)
    common_sizes = set(calibration_sizes.values()) & set(evaluation_sizes.values())
    calibration_digests = {
        digest_file(path): path for path, size in calibration_sizes.items() if size in common_sizes
    }
    for path, size in evaluation_sizes.items():
        if size not in common_sizes:
            continue
        same_file = calibration_digests.get(digest_file(path))
        if same_file is not None:
            hint = "evaluate on files that calibration does not use"
            raise StageError(f"{stage}: {path} is the same as {same_file}; {hint}")


def _file_sizes(items: Sequence[HasFile]) -> dict[Path, int]:
    return {item.file: item.file.stat().st_size for item in items if item.file.is_file()}


# ---- reading


class FileSamples(Sequence[Sample], Generic[FileItem]):
    """Samples that lie in files, each read when it is taken.

    A pass over all of them ends with a StageError that names the files that cannot be read.
    """

    def __init__(
        self,
        kind: FileKind,
        items: Sequence[FileItem],
        read_sample: Callable[[FileItem], Sample],
        failures: tuple[type[Exception], ...],
    ) -> None:
        self.kind = kind
        self.items = items
        self.read_sample = read_sample
        self.failures = failures

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return self._of(self.items[index])
        (sample,) = self._of([self.items[index]])
        return sample

    def __iter__(self) -> Iterator[Sample]:
        for _, sample in read_files(self.kind, self.items, self.read_sample, self.failures):
            yield sample

    def _of(self, items: Sequence[FileItem]) -> FileSamples[FileItem]:
        return FileSamples(self.kind, items, self.read_sample, self.failures)


def read_files(
    kind: FileKind,
    items: Sequence[FileItem],
    read: Callable[[FileItem], Content],
    failures: tuple[type[Exception], ...],
) -> Iterator[tuple[FileItem, Content]]:
    """Yield each item with what `read` returns for it.

    A file cannot be read where `read` raises one of `failures`; at the end, raise StageError that
    names all of these files at once.
    """
    reasons = {}
    for item in items:
        try:
            content = read(item)
        except StageError:
            raise
        except failures as error:
            reasons[item.file] = failure_reason(item.file, error)
        else:
            yield item, content
    raise_for_unreadable(kind, reasons, len(items))


def failure_reason(file: Path, error: Exception) -> str:
    """Return in a few words why a file cannot be read."""
    if not file.is_file():
        return "no such file"
    if file.stat().st_size == 0:
        return "empty"
    return " ".join(str(error).split())


def raise_for_unreadable(kind: FileKind, reasons: Mapping[Path, str], total: int) -> None:
    """Raise StageError with the number of unreadable files, and the first few with the reasons."""
    if not reasons:
        return
    described = [f"{path} ({reason})" for path, reason in reasons.items()]
    names = ", ".join(described[:MAX_FILES_IN_MESSAGE])
    more_count = len(described) - MAX_FILES_IN_MESSAGE
    more = f" and {more_count} more" if more_count > 0 else ""
    problem = f"{len(reasons)} of {total} {kind.noun}s cannot be read: {names}{more}"
    raise StageError(f"{kind.stage}: {problem}; replace or remove them")
