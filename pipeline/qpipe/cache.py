"""Results by key: folders written aside and renamed, checked when they are read."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MANIFEST = "manifest.json"
STALE_S = 24 * 3600


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
            intact = manifest["files"] == _digests(entry / "value")
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            self.remove(kind, key)
            return None
        return entry / "value"

    def remove(self, kind: str, key: str) -> None:
        """Forget a result."""
        (self.folder(kind, key) / MANIFEST).unlink(missing_ok=True)  # first: what is left without it is no result
        shutil.rmtree(self.folder(kind, key), ignore_errors=True)

    @contextmanager
    def put(self, kind: str, key: str) -> Iterator[Path]:
        """A folder to write a result into; it becomes the key's result when the block ends well, vanishes otherwise."""
        aside = self.root / "aside"
        aside.mkdir(parents=True, exist_ok=True)
        _sweep(aside)
        entry = Path(tempfile.mkdtemp(dir=aside))
        try:
            value = entry / "value"
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
                if not self.has(kind, key):  # somebody else may have been first with the same result
                    self.remove(kind, key)  # half removed by one that was killed meanwhile
                    entry.rename(final)
        finally:
            shutil.rmtree(entry, ignore_errors=True)


def _sweep(aside: Path) -> None:
    """Remove what processes that were killed left unfinished; who still writes has done so within a day."""
    for entry in aside.iterdir():
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > STALE_S:
                shutil.rmtree(entry, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                found[str(file.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
