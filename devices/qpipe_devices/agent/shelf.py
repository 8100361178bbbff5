"""What lies on the device: files under their sha256, and folders made of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Iterable, Mapping, Sequence  # noqa: UP035  (Python 3.8 on the board)

from .runner import AgentError

FOLDERS = ("blobs", "folders", "incoming")


class Shelf:
    """The device's folder. Nothing is believed to be whole before this agent has hashed it once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole: set[Path] = set()
        shutil.rmtree(str(root / "incoming"), ignore_errors=True)  # what an earlier agent did not finish
        self._make_folders()

    def free(self) -> int:
        """Bytes that a user may still write here."""
        return shutil.disk_usage(str(self.root)).free

    def missing(self, files: Mapping[str, Sequence[str]]) -> list[str]:
        """The digests, of these {path: [sha256, size]}, that must be sent; what is damaged is thrown away."""
        wanted = {str(digest): int(size) for digest, size in files.values()}
        return [digest for digest, size in wanted.items() if not self._is_whole(self._blob(digest), digest, size)]

    def take(self, digest: str) -> bool:
        """Move a file from incoming to its place; False where it is not what it should be, then it is deleted."""
        source = self.root / "incoming" / digest
        if not source.is_file() or sha256(source) != digest:
            if source.exists():
                source.unlink()
            return False
        _sync(source)
        source.replace(self._blob(digest))
        self.whole.add(self._blob(digest))
        return True

    def folder(self, digest: str, files: Mapping[str, Sequence[str]]) -> Path:
        """The folder of that digest, made of links to its files (copies where the file system has no links)."""
        final = self.root / "folders" / digest
        if final.is_dir() and all(self._is_whole(final / path, d, int(s)) for path, (d, s) in files.items()):
            return final
        aside = self.root / "incoming" / f"folder-{digest}"
        for place in (final, aside):
            if place.exists():
                shutil.rmtree(str(place))
        aside.mkdir()
        for path, (blob, _) in files.items():
            place = aside / _inside(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            _link(self._blob(blob), place)
            self.whole.add(final / path)
        aside.replace(final)
        return final

    def clean(self) -> int:
        """Throw all of it away; the bytes that this freed."""
        freed = sum(_sizes(self.root / name for name in FOLDERS).values())
        for name in FOLDERS:
            shutil.rmtree(str(self.root / name))
        self.whole.clear()
        self._make_folders()
        return freed

    def _make_folders(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest

    def _is_whole(self, path: Path, digest: str, size: int) -> bool:
        if not path.is_file() or path.stat().st_size != size:
            return False
        if path not in self.whole:
            if sha256(path) != digest:
                path.unlink()
                return False
            self.whole.add(path)
        return True


def sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def _sizes(folders: Iterable[Path]) -> Mapping[int, int]:
    """Bytes by inode: links to one file are one file."""
    found = (path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file())
    return {each.st_ino: each.st_size for each in found}


def _inside(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise AgentError(f"'{path}' leaves the folder it should lie in")
    return pure


def _link(source: Path, target: Path) -> None:
    try:
        os.link(str(source), str(target))
    except OSError:  # FAT, and some network file systems
        shutil.copyfile(str(source), str(target))


def _sync(path: Path) -> None:
    """A board may lose its power at any moment: the bytes go to the card before the name does."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
