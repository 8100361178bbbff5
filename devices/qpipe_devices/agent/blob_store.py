"""What is stored on the device: files under their sha256, and folders made of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from .failures import AgentError

if TYPE_CHECKING:
    from .messages import CleanOptions

FOLDERS = ("blobs", "folders", "incoming")
ARRIVING_S = 60.0  # the file of an agent may be that of one that arrives at this moment
HASHED_AT_ONCE = 1 << 20  # bytes


class Entry(NamedTuple):
    """What can be removed by itself; `sizes` are the bytes of its files by inode."""

    path: Path
    used: float  # last use, in seconds since 1970
    sizes: Mapping[int, int]


class BlobStore:
    """The device's folder.

    No file is taken to be complete before this agent has hashed it once.
    """

    def __init__(self, root: Path, token: int = 0) -> None:
        self.root = root
        # of this lease alone: an agent that lost its lease writes where nobody reads
        self.incoming = root / "incoming" / str(token)
        self.verified: set[Path] = set()
        # what an earlier agent did not finish
        shutil.rmtree(str(root / "incoming"), ignore_errors=True)
        self._make_folders()
        self.agent = Path(__file__).resolve().parents[1]  # the zip file that runs
        if self.agent.is_file():
            with contextlib.suppress(OSError):
                os.utime(str(self.agent))  # its last use, for clean

    def free_bytes(self) -> int:
        """Return the bytes that a user may still write here."""
        return shutil.disk_usage(str(self.root)).free

    def missing(self, files: Mapping[str, tuple[str, int]]) -> list[str]:
        """Return the digests of files {path: (sha256, size)} that must be sent.

        Files that are damaged are removed.
        """
        sizes = {str(digest): int(size) for digest, size in files.values()}
        return [
            digest
            for digest, size in sizes.items()
            if not self._is_complete(self._blob(digest), digest, size)
        ]

    def accept(self, digest: str) -> bool:
        """Move a file from incoming to its place; return whether it is complete.

        One that is not is removed.
        """
        source = self.incoming / digest
        if not source.is_file() or sha256_of_file(source) != digest:
            if source.exists():
                source.unlink()
            return False
        source.chmod(0o600)  # whoever sent it had a umask of their own
        _flush_to_disk(source)
        blob = self._blob(digest)
        source.replace(blob)
        self.verified.add(blob)
        return True

    def make_folder(self, digest: str, files: Mapping[str, tuple[str, int]]) -> Path:
        """Return the folder of a digest, made of links to its files {path: (sha256, size)}.

        The files are copied where the file system has no links.
        """
        final = self.root / "folders" / digest
        if self._is_complete_folder(final, files):
            os.utime(str(final))  # its last use, for clean
            return final
        temporary = self.incoming / f"folder-{digest}"
        for folder in (final, temporary):
            if folder.exists():
                shutil.rmtree(str(folder))
        temporary.mkdir()
        for path, (blob, _) in files.items():
            target = temporary / _path_inside(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(self._blob(blob), target)
            self.verified.add(final / path)
        temporary.replace(final)
        return final

    def clean(self, options: CleanOptions) -> int:
        """Remove what is stored here; return the bytes that this frees, or would in a dry run.

        Entries are removed longest unused first: only those unused for `older_than_s` seconds, and
        only until `keep_bytes` bytes are left. Of what setup installed, runtimes that are not
        selected are removed; with `runtime` the selected one, too.
        """
        entries = self._entries(selected_runtime=options.get("runtime", False))
        removable = longest_unused(
            entries,
            older_than_s=options.get("older_than_s"),
            keep_bytes=options.get("keep_bytes"),
        )
        staying = entries[len(removable) :]
        freed = total_bytes(entries) - total_bytes(staying)
        if not options.get("dry_run", False):
            self._remove(removable, staying)
        return freed

    def _remove(self, removable: Sequence[Entry], staying: Sequence[Entry]) -> None:
        for entry in removable:
            if entry.path.is_dir():
                shutil.rmtree(str(entry.path))
            else:
                entry.path.unlink()
        used_inodes = _inodes(staying)
        for blob in (self.root / "blobs").iterdir():
            if blob.stat().st_ino not in used_inodes:
                blob.unlink()
        pointer = self.root / "python" / "current"
        if pointer.is_file() and not (pointer.parent / self._selected_runtime()).is_dir():
            pointer.unlink()
        self.verified.clear()

    def _entries(self, *, selected_runtime: bool) -> list[Entry]:
        """Return what can be removed by itself, longest unused first.

        These are folders, files in no folder, Python runtimes, and agents that are not running.
        """
        folders = [_entry(path) for path in (self.root / "folders").iterdir()]
        entries = folders + self._unused_blobs(folders)
        entries += self._runtimes(selected_runtime=selected_runtime) + self._other_agents()
        return sorted(entries, key=lambda entry: entry.used)

    def _unused_blobs(self, folders: Sequence[Entry]) -> list[Entry]:
        """Return the blobs that are in none of the folders."""
        used_inodes = _inodes(folders)
        blobs = (self.root / "blobs").iterdir()
        return [_entry(path) for path in blobs if path.stat().st_ino not in used_inodes]

    def _runtimes(self, *, selected_runtime: bool) -> list[Entry]:
        """Return the Python runtimes; the selected one only where asked for."""
        python = self.root / "python"
        if not python.is_dir():
            return []
        selected = self._selected_runtime()
        folders = [path for path in python.iterdir() if path.is_dir()]
        return [_entry(path) for path in folders if selected_runtime or path.name != selected]

    def _other_agents(self) -> list[Entry]:
        """Return the zip files of agents, without the one that runs and those that arrive."""
        paths = (self.root / "agent").glob("*.pyz*")
        agents = [_entry(path) for path in paths if path != self.agent]
        now = time.time()
        return [entry for entry in agents if now - entry.used > ARRIVING_S]

    def _selected_runtime(self) -> str:
        pointer = self.root / "python" / "current"
        if not pointer.is_file():
            return ""
        return pointer.read_text(encoding="utf-8").strip()

    def _make_folders(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.incoming.mkdir(parents=True, exist_ok=True)

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest

    def _is_complete_folder(self, folder: Path, files: Mapping[str, tuple[str, int]]) -> bool:
        if not folder.is_dir():
            return False
        return all(
            self._is_complete(folder / path, digest, int(size))
            for path, (digest, size) in files.items()
        )

    def _is_complete(self, path: Path, digest: str, size: int) -> bool:
        """Return whether a file has this size and digest; one with another digest is removed."""
        if not path.is_file() or path.stat().st_size != size:
            return False
        if path in self.verified:
            return True
        if sha256_of_file(path) != digest:
            path.unlink()
            return False
        self.verified.add(path)
        return True


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(HASHED_AT_ONCE), b""):
            digest.update(part)
    return digest.hexdigest()


def longest_unused(
    entries: Sequence[Entry], *, older_than_s: float | None, keep_bytes: float | None
) -> Sequence[Entry]:
    """Return the first entries, as far as the limits allow to remove them.

    Each has been unused for `older_than_s` seconds, and more than `keep_bytes` bytes would be left
    without it.
    """
    now = time.time()
    for count, entry in enumerate(entries):
        if older_than_s is not None and now - entry.used < older_than_s:
            return entries[:count]
        if keep_bytes is not None and total_bytes(entries[count:]) <= keep_bytes:
            return entries[:count]
    return entries


def total_bytes(entries: Iterable[Entry]) -> int:
    """Return the bytes of all entries; links to one file count once."""
    sizes: dict[int, int] = {}
    for entry in entries:
        sizes.update(entry.sizes)
    return sum(sizes.values())


def _inodes(entries: Iterable[Entry]) -> set[int]:
    return {inode for entry in entries for inode in entry.sizes}


def _entry(path: Path) -> Entry:
    paths = [path] if path.is_file() else path.rglob("*")
    files = [file.lstat() for file in paths if file.is_file()]
    return Entry(path, path.stat().st_mtime, {file.st_ino: file.st_size for file in files})


def _path_inside(path: str) -> PurePosixPath:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise AgentError(f"'{path}' leads out of its folder")
    return relative


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(str(source), str(target))
    except OSError:  # FAT, and some network file systems
        shutil.copyfile(str(source), str(target))


def _flush_to_disk(path: Path) -> None:
    """Write a file's bytes to the card before its name: a board may lose power at any moment."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
