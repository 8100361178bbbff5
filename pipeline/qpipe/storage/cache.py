"""Results by key: folders written aside and renamed, checked when they are read, removed when nobody needs them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qpipe.errors import QpipeError

MANIFEST = "manifest.json"
VALUE = "value"
# beside the kinds
ASIDE = "aside"
LOCK = ".lock"
USERS = ".users"
STALE_S = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """A result that lies in the cache."""

    kind: str
    key: str
    size: int  # bytes of its files
    used: float  # when a run last counted on it, seconds since 1970


class Cache:
    """A folder of results: KIND/KEY/value holds what a step gave, KIND/KEY/manifest.json the digests of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the result of that key is, or would be."""
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether there is a result, unchecked."""
        return (self.folder(kind, key) / MANIFEST).is_file()

    def get(self, kind: str, key: str) -> Path | None:
        """The folder of a whole, undamaged result; a damaged one is removed and counts as absent."""
        entry = self.folder(kind, key)
        if not self.has(kind, key):
            return None
        try:
            manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
            intact = manifest["files"] == _digests(entry / VALUE)
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            self.remove(kind, key)
            return None
        return entry / VALUE

    def remove(self, kind: str, key: str) -> None:
        """Forget a result."""
        (self.folder(kind, key) / MANIFEST).unlink(
            missing_ok=True
        )  # first: what is left without it is no result
        shutil.rmtree(self.folder(kind, key), ignore_errors=True)

    @contextmanager
    def put(self, kind: str, key: str) -> Iterator[Path]:
        """A folder to write a result into; it becomes the key's result when the block ends well, vanishes otherwise."""
        aside = self.root / ASIDE
        aside.mkdir(parents=True, exist_ok=True)
        _sweep(aside)
        entry = Path(tempfile.mkdtemp(dir=aside))
        try:
            value = entry / VALUE
            value.mkdir()
            yield value
            manifest = {"key": key, "files": _digests(value)}
            (entry / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            entry.chmod(0o755)
            final = self.folder(kind, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                entry.rename(final)
            except OSError:
                if not self.has(
                    kind, key
                ):  # somebody else may have been first with the same result
                    self.remove(kind, key)  # half removed by one that was killed meanwhile
                    entry.rename(final)
        finally:
            shutil.rmtree(entry, ignore_errors=True)

    def scratch(self, kind: str, key: str) -> Path:
        """Where what makes the result of that key may keep what it has so far; swept away when it is a day old."""
        return self.root / ASIDE / f"{kind}-{key}"

    def entries(self) -> list[Entry]:
        """All that is there, the longest unused first."""
        folders = [f for kind in self._kinds() for f in kind.iterdir() if f.is_dir()]
        found = [_entry(folder) for folder in folders]
        return sorted(
            (entry for entry in found if entry), key=lambda entry: (entry.used, entry.key)
        )

    def _kinds(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        own = (ASIDE, LOCK, USERS)
        return sorted(
            path for path in self.root.iterdir() if path.name not in own and path.is_dir()
        )

    @contextmanager
    def kept(self, results: Iterable[tuple[str, str]]) -> Iterator[None]:
        """While this lasts, nobody's `clean` removes the results of these kinds and keys, there already or not yet."""
        names = [f"{kind}/{key}" for kind, key in results]
        self._make()
        with ExitStack() as stack:
            with self._locked(fcntl.LOCK_SH):  # who cleans sees the whole list or none of it
                user = stack.enter_context(
                    tempfile.NamedTemporaryFile(
                        "w", dir=self.root / USERS, encoding="utf-8", delete=False
                    )
                )
                # before it is closed, for then who cleans may remove it
                stack.callback(Path(user.name).unlink, missing_ok=True)
                fcntl.flock(user, fcntl.LOCK_EX)  # falls with this process, whatever ends it
                user.write("\n".join(names))
                user.flush()
            for name in names:
                with suppress(OSError):
                    os.utime(self.root / name / MANIFEST)
            yield

    def _make(self) -> None:
        try:
            (self.root / USERS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            fix = "give another place, or check its permissions"
            raise QpipeError(f"{self.root}: cannot be the cache: {reason}; {fix}") from error

    def clean(
        self,
        kind: str | None = None,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
    ) -> tuple[list[Entry], list[Entry]]:
        """Remove results, the longest unused first: those of the kind, unused for so long, until no more than so many
        bytes (of the kind) are left. Gives what went, and what was to go but is in use."""
        if not self.root.is_dir():
            return [], []
        if not dry_run:
            _sweep(self.root / ASIDE)
        with self._locked(fcntl.LOCK_EX):
            in_use = self._in_use()
            chosen = _longest_unused(
                [e for e in self.entries() if kind in (None, e.kind)], older_than_s, keep_bytes
            )
            going = [entry for entry in chosen if f"{entry.kind}/{entry.key}" not in in_use]
            aside = [] if dry_run else [self._set_aside(entry) for entry in going]
        for folder in aside:
            shutil.rmtree(folder, ignore_errors=True)
        return going, [entry for entry in chosen if entry not in going]

    def _set_aside(self, entry: Entry) -> Path:
        """Rename: a result is there or not, whenever this process ends."""
        (self.root / ASIDE).mkdir(exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self.root / ASIDE))
        with suppress(OSError):  # found damaged by somebody else, and removed
            self.folder(entry.kind, entry.key).rename(aside / "removed")
        return aside

    def _in_use(self) -> Collection[str]:
        """What the processes that are at work keep; forgets those that were killed."""
        found: set[str] = set()
        users = self.root / USERS
        for file in users.iterdir() if users.is_dir() else ():
            # it may go at any moment: then nothing is in use by it
            with suppress(FileNotFoundError), file.open("r+", encoding="utf-8") as user:
                try:
                    fcntl.flock(user, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink(missing_ok=True)
                except BlockingIOError:
                    found.update(user.read().splitlines())
        return found

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with (self.root / LOCK).open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, how)
            yield


def _longest_unused(
    entries: list[Entry], older_than_s: float | None, keep_bytes: float | None
) -> list[Entry]:
    now = time.time()
    left = sum(entry.size for entry in entries)
    chosen = []
    for entry in entries:
        if older_than_s is not None and now - entry.used < older_than_s:
            break
        if keep_bytes is not None and left <= keep_bytes:
            break
        chosen.append(entry)
        left -= entry.size
    return chosen


def _entry(folder: Path) -> Entry | None:
    """None where it has just been removed, and for a folder that is no result: a wrong `--cache` may name any."""
    mark = folder / MANIFEST
    try:
        there = {path.name for path in folder.iterdir()}
        if not there or not there <= {MANIFEST, VALUE}:
            return None
        used = (mark if mark.is_file() else folder).stat().st_mtime
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:
        return None
    return Entry(folder.parent.name, folder.name, size, used)


def _sweep(aside: Path) -> None:
    """Remove what processes that were killed left unfinished; who still writes has done so within a day."""
    for entry in aside.iterdir() if aside.is_dir() else ():
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > STALE_S:
                shutil.rmtree(entry, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                found[str(file.relative_to(folder))] = hashlib.file_digest(
                    stream, "sha256"
                ).hexdigest()
    return found
