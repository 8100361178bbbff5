"""The cache: results of steps by key, checked when they are read, removed when nobody needs them.

An entry is the folder KIND/KEY: its folder `value` holds what the step gave, its manifest.json the
digests of these files. Entries are written in a scratch folder and renamed into place.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpipe.digests import digest_file
from qpipe.errors import QpipeError
from qpipe.storage.folder_lock import lock_folder

MANIFEST = "manifest.json"
VALUE = "value"
# what lies beside the folders of the kinds
SCRATCH = "aside"
UNFINISHED = "new-"  # begins the names of entries that are being written or removed there
LOCK = ".lock"
USERS = ".users"

KEY = re.compile(r"[^/.\0][^/\0]*")

STALE_S = 24 * 3600  # how long a step that was killed may be continued from what it left
# on a new folder; a file system without locks has none in the end, and nothing is swept there
LOCK_ATTEMPTS = 5
OTHERS_MAY_WRITE = 0o022  # mode


@dataclass(frozen=True)
class Entry:
    """A result in the cache."""

    kind: str
    key: str
    size: int  # bytes of its files
    last_used: float  # when a run last counted on it, in seconds since 1970


class Cache:
    """The results of steps in a folder, which is its user's alone.

    What lies in it is trusted: a build brings the program that runs it. Raise QpipeError for a
    folder of another user, or one that others may write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # gets what a cache that shares results has to say
        self.notify: Callable[[str], None] = lambda _: None
        _check_owner(root)

    def folder(self, kind: str, key: str) -> Path:
        """Return the folder of an entry, which may not exist.

        Raise QpipeError for a kind or key that is a path, as one from another's database may be.
        """
        for name in (key, kind):
            if not KEY.fullmatch(name):
                raise QpipeError(
                    f"{self.root}: '{name}' is not the key of a result; run the recipe again"
                )
        return self.root / kind / key

    def value_folder(self, kind: str, key: str) -> Path:
        """Return the folder of the result itself, unchecked, which may not exist."""
        return self.folder(kind, key) / VALUE

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is a result, unchecked."""
        return (self.folder(kind, key) / MANIFEST).is_file()

    def get(self, kind: str, key: str) -> Path | None:
        """Return the folder of a result; remove a damaged one, and return None as for a missing."""
        if not self.has(kind, key):
            return None
        if not self._is_intact(kind, key):
            self.remove(kind, key)
            return None
        return self.value_folder(kind, key)

    def expect(self, kind: str, key: str) -> None:
        """Note that another machine has made a result, where results are shared."""

    def share(self, kind: str, key: str) -> None:
        """Give others a result that was made before, where results are shared."""

    def _is_intact(self, kind: str, key: str) -> bool:
        manifest_file = self.folder(kind, key) / MANIFEST
        try:
            manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
            return bool(manifest["files"] == _digests(self.value_folder(kind, key)))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def remove(self, kind: str, key: str) -> None:
        """Remove a result."""
        entry = self.folder(kind, key)
        # the manifest first: without it the rest is not a result
        (entry / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(entry, ignore_errors=True)

    @contextmanager
    def put(self, kind: str, key: str) -> Iterator[Path]:
        """Give a folder to write a result into.

        It becomes the result of the key when the block ends without an error, and is removed
        otherwise. Where another process has put the same result meanwhile, that one stays.
        """
        _remove_abandoned(self.root / SCRATCH)
        with self.new_scratch_folder() as scratch:
            value = scratch / VALUE
            value.mkdir()
            yield value
            manifest = {"key": key, "files": _digests(value)}
            (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            self._move_into_place(scratch, kind, key)

    @contextmanager
    def new_scratch_folder(self) -> Iterator[Path]:
        """Give a folder that is removed at the end, and by nobody else before."""
        self._create()
        parent = self.root / SCRATCH
        parent.mkdir(exist_ok=True)
        with ExitStack() as stack:
            for _ in range(LOCK_ATTEMPTS):
                scratch = Path(tempfile.mkdtemp(dir=parent, prefix=UNFINISHED))
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                if lock_folder(scratch, stack):
                    break  # else somebody swept it before it was locked
            yield scratch

    def _move_into_place(self, scratch: Path, kind: str, key: str) -> None:
        entry = self.folder(kind, key)
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.rename(entry)
        except OSError:
            if Cache.has(self, kind, key):  # another process was first, with the same result
                return
            self.remove(kind, key)  # half removed by a process that was killed
            scratch.rename(entry)

    def scratch(self, kind: str, key: str) -> Path:
        """Return where a step keeps what it has so far.

        It is removed a day after the process that used it last.
        """
        return self.root / SCRATCH / f"{kind}-{key}"

    def entries(self) -> list[Entry]:
        """Return all entries, the longest unused first."""
        entries = []
        for kind_folder in self._kind_folders():
            for folder in kind_folder.iterdir():
                entry = _read_entry(folder)
                if entry:
                    entries.append(entry)
        return sorted(entries, key=lambda entry: (entry.last_used, entry.key))

    def _kind_folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if path.is_dir()]
        return sorted(path for path in folders if path.name not in (SCRATCH, LOCK, USERS))

    # ---- entries in use

    @contextmanager
    def protect(self, results: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Keep these results, by kind and key, from being removed by anybody's `clean`.

        They may be in the cache already or not yet. To be protected counts as being used.
        """
        names = [str(self.folder(kind, key).relative_to(self.root)) for kind, key in results]
        self._create()
        _remove_abandoned(self.root / SCRATCH)
        with self._locked(fcntl.LOCK_EX):
            self._names_in_use()  # removes the lists of processes that were killed
        with ExitStack() as stack:
            with self._locked(fcntl.LOCK_SH):  # who cleans reads the whole list or nothing
                user = stack.enter_context(
                    tempfile.NamedTemporaryFile(
                        "w", dir=self.root / USERS, encoding="utf-8", delete=False
                    )
                )
                # it is removed before it is closed: who cleans may remove a closed one
                stack.callback(Path(user.name).unlink, missing_ok=True)
                fcntl.flock(user, fcntl.LOCK_EX)  # ends with this process, in whatever way
                user.write("\n".join(names))
                user.flush()
            for name in names:
                with suppress(OSError):
                    os.utime(self.root / name / MANIFEST)
            yield

    def _create(self) -> None:
        try:
            if not self.root.exists():  # the mode of a folder that somebody gave is theirs
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.root / USERS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"{self.root}: cannot be used as the cache: {reason}"
            raise QpipeError(f"{message}; give another path, or check its permissions") from error

    def _names_in_use(self) -> set[str]:
        """Return KIND/KEY of the results that running processes protect.

        Remove the lists of processes that were killed.
        """
        users = self.root / USERS
        if not users.is_dir():
            return set()
        names: set[str] = set()
        for path in users.iterdir():
            # a list that vanishes meanwhile protects nothing
            with suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as user:
                try:
                    fcntl.flock(user, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                except BlockingIOError:
                    names.update(user.read().splitlines())
        return names

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.root / LOCK, flags, 0o600)
        except OSError as error:
            reason = f"{self.root / LOCK} cannot be opened: {(error.strerror or '').lower()}"
            raise QpipeError(f"{reason}; remove it, or give another folder with --cache") from error
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)

    # ---- removing what is not used

    def clean(
        self,
        kind: str | None = None,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
    ) -> tuple[list[Entry], list[Entry]]:
        """Remove results, the longest unused first.

        Of one kind where it is given; only those that were not used for `older_than_s`; and only
        until at most `keep_bytes` (of that kind) remain. Return those that were removed, and those
        that would have been but are in use.
        """
        if not self.root.is_dir():
            return [], []
        if not dry_run:
            _remove_abandoned(self.root / SCRATCH)
        with ExitStack() as stack, self._locked(fcntl.LOCK_EX):
            names_in_use = self._names_in_use()
            entries = [entry for entry in self.entries() if kind in (None, entry.kind)]
            removable: list[Entry] = []
            in_use: list[Entry] = []
            for entry in _longest_unused(entries, older_than_s, keep_bytes):
                if f"{entry.kind}/{entry.key}" in names_in_use:
                    in_use.append(entry)
                else:
                    removable.append(entry)
            if removable and not dry_run:
                # they are deleted when the lock has been given back
                self._move_into(stack.enter_context(self.new_scratch_folder()), removable)
        return removable, in_use

    def _move_into(self, scratch: Path, entries: Sequence[Entry]) -> None:
        """Move entries away, by a rename each: whenever this process ends, each exists or not."""
        for number, entry in enumerate(entries):
            with suppress(OSError):  # another process found it damaged, and removed it
                self.folder(entry.kind, entry.key).rename(scratch / str(number))


def _longest_unused(
    entries: list[Entry], older_than_s: float | None, keep_bytes: float | None
) -> list[Entry]:
    """Return the first of these entries, sorted by their last use, up to one that may stay."""
    now = time.time()
    remaining_bytes = sum(entry.size for entry in entries)
    unused = []
    for entry in entries:
        if older_than_s is not None and now - entry.last_used < older_than_s:
            break
        if keep_bytes is not None and remaining_bytes <= keep_bytes:
            break
        unused.append(entry)
        remaining_bytes -= entry.size
    return unused


def _read_entry(folder: Path) -> Entry | None:
    """Return the entry in a folder.

    None where it was just removed, or where the folder is not an entry: `--cache` may be given any
    folder by mistake.
    """
    manifest = folder / MANIFEST
    try:
        names = {path.name for path in folder.iterdir()}
        if not names or not names <= {MANIFEST, VALUE}:
            return None
        dated = manifest if manifest.is_file() else folder
        last_used = dated.stat().st_mtime
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:
        return None
    return Entry(folder.parent.name, folder.name, size, last_used)


def _remove_abandoned(scratch: Path) -> None:
    """Remove what processes that were killed left: what nobody continues, or not within a day."""
    if not scratch.is_dir():
        return
    for folder in scratch.iterdir():
        with ExitStack() as stack, suppress(OSError):
            if not lock_folder(folder, stack):
                continue
            age = time.time() - folder.stat().st_mtime
            if folder.name.startswith(UNFINISHED) or age > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _check_owner(root: Path) -> None:
    """Raise QpipeError where somebody else may have put something into a cache."""
    try:
        status = root.stat()
    except OSError:
        return  # it is made, or the reason is told, when it is used
    fix = "give a folder of your own with --cache"
    if status.st_uid != os.geteuid():
        raise QpipeError(f"{root}: the cache belongs to another user; {fix}")
    if status.st_mode & OTHERS_MAY_WRITE:
        raise QpipeError(f"{root}: others may write into the cache; {fix}, or remove this one")


class FrontCache(Cache):
    """A user's own cache in front of a place at which results are shared."""

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is a result, after one that others have shared was taken."""
        return super().has(kind, key) or self._take(kind, key)

    @contextmanager
    def put(self, kind: str, key: str) -> Iterator[Path]:
        """Give a folder to write a result into, which is then given to others too."""
        with super().put(kind, key) as value:
            yield value
        self._give(kind, key)

    @abstractmethod
    def _take(self, kind: str, key: str) -> bool:
        """Copy a result from there into the own cache, if there is one; return whether."""

    @abstractmethod
    def _give(self, kind: str, key: str) -> None:
        """Copy a result of the own cache there."""


def parse_manifest(manifest: Any, key: str) -> dict[str, str]:
    """Return the digests of the files of a result; raise ValueError for what is no manifest."""
    if not isinstance(manifest, dict) or manifest.get("key") != key:
        raise ValueError("the manifest of another result")
    digests = manifest.get("files")
    if not isinstance(digests, dict):
        raise ValueError("a manifest without files")
    return digests


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file in a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): digest_file(file) for file in files}
