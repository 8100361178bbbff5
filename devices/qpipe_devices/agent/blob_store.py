"""What lies on the device: files under their sha256, and folders made of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path, PurePosixPath
from typing import Iterable, Mapping, NamedTuple, Sequence  # noqa: UP035  (Python 3.8 on the board)

from .failures import AgentError

FOLDERS = ("blobs", "folders", "incoming")
ARRIVING_S = 60.0  # an agent's file may be that of one who comes at this moment


class Entry(NamedTuple):
    """What can be cleaned by itself; `sizes` are the bytes of its files by inode."""

    path: Path
    used: float  # last, in seconds since 1970
    sizes: Mapping[int, int]


class Shelf:
    """The device's folder. Nothing is believed to be whole before this agent has hashed it once."""

    def __init__(self, root: Path, token: int = 0) -> None:
        self.root = root
        self.incoming = (
            root / "incoming" / str(token)
        )  # of this lease alone: who lost his writes nowhere
        self.whole: set[Path] = set()
        shutil.rmtree(
            str(root / "incoming"), ignore_errors=True
        )  # what an earlier agent did not finish
        self._make_folders()
        self.agent = Path(__file__).resolve().parents[1]  # the file that runs
        if self.agent.is_file():
            with contextlib.suppress(OSError):
                os.utime(str(self.agent))  # its last use, for clean

    def free(self) -> int:
        """Bytes that a user may still write here."""
        return shutil.disk_usage(str(self.root)).free

    def missing(self, files: Mapping[str, Sequence[str]]) -> list[str]:
        """The digests, of these {path: [sha256, size]}, that must be sent; what is damaged is thrown away."""
        wanted = {str(digest): int(size) for digest, size in files.values()}
        return [
            digest
            for digest, size in wanted.items()
            if not self._is_whole(self._blob(digest), digest, size)
        ]

    def take(self, digest: str) -> bool:
        """Move a file from incoming to its place; False where it is not what it should be, then it is deleted."""
        source = self.incoming / digest
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
        if final.is_dir() and all(
            self._is_whole(final / path, d, int(s)) for path, (d, s) in files.items()
        ):
            os.utime(str(final))  # its last use, for clean
            return final
        aside = self.incoming / f"folder-{digest}"
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

    def clean(
        self,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Throw away all of it, or the longest unused, of those unused for so long, until so much is left; the bytes
        that this frees. What setup brought goes where nobody would use it, and with `runtime` in any case."""
        entries = self._entries(runtime)
        going = longest_unused(entries, older_than_s, keep_bytes)
        freed = _total(entries) - _total(entries[len(going) :])
        if not dry_run:
            self._remove(going, entries[len(going) :])
        return freed

    def _remove(self, going: Iterable[Entry], staying: Iterable[Entry]) -> None:
        for entry in going:
            if entry.path.is_dir():
                shutil.rmtree(str(entry.path))
            else:
                entry.path.unlink()
        used = {inode for entry in staying for inode in entry.sizes}
        for blob in (self.root / "blobs").iterdir():
            if blob.stat().st_ino not in used:
                blob.unlink()
        pointer = self.root / "python" / "current"
        if (
            pointer.is_file()
            and not (pointer.parent / pointer.read_text(encoding="utf-8").strip()).is_dir()
        ):
            pointer.unlink()
        self.whole.clear()

    def _entries(self, runtime: bool) -> list[Entry]:
        """What can go by itself, the longest unused first: folders, files in none of them, Python runtimes, agents."""
        folders = [_entry(path) for path in (self.root / "folders").iterdir()]
        used = {inode for entry in folders for inode in entry.sizes}
        blobs = [
            _entry(path)
            for path in (self.root / "blobs").iterdir()
            if path.stat().st_ino not in used
        ]
        python = self.root / "python"
        pointer = python / "current"
        current = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        found = [path for path in python.iterdir() if path.is_dir()] if python.is_dir() else []
        runtimes = [_entry(path) for path in found if runtime or path.name != current]
        now = time.time()
        agents = [
            _entry(path) for path in (self.root / "agent").glob("*.pyz*") if path != self.agent
        ]
        agents = [entry for entry in agents if now - entry.used > ARRIVING_S]
        return sorted(folders + blobs + runtimes + agents, key=lambda entry: entry.used)

    def _make_folders(self) -> None:
        for folder in (*(self.root / name for name in FOLDERS), self.incoming):
            folder.mkdir(parents=True, exist_ok=True)

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


def longest_unused(
    entries: Sequence[Entry], older_than_s: float | None, keep_bytes: float | None
) -> list[Entry]:
    """The first of the entries, as far as each has been unused for so long and more than so much would be left."""
    now = time.time()
    for count, entry in enumerate(entries):
        if older_than_s is not None and now - entry.used < older_than_s:
            return list(entries[:count])
        if keep_bytes is not None and _total(entries[count:]) <= keep_bytes:
            return list(entries[:count])
    return list(entries)


def _total(entries: Iterable[Entry]) -> int:
    """Bytes of them all: links to one file are one file."""
    return sum({inode: size for entry in entries for inode, size in entry.sizes.items()}.values())


def _entry(path: Path) -> Entry:
    files = [
        file.lstat() for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
    ]
    return Entry(path, path.stat().st_mtime, {each.st_ino: each.st_size for each in files})


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
