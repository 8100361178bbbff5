"""A cache in front of a URL at which machines leave results for each other.

A result lies there in one file, KIND/KEY.zip: what the cache holds of it, whole or not at all. Only
names that this machine asks for are read, and only files that the manifest names with a digest.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path

from qpipe.digests import digest_file
from qpipe.storage.cache import MANIFEST, VALUE, Cache, FrontCache, parse_manifest
from qpipe.storage.remote_files import RemoteFiles

LACKING_S = 60.0  # a result that was not there is looked for again
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of the time of zip files: equal results are equal files
READABLE_FILE = 0o644 << 16


class RemoteCache(FrontCache):
    """A user's own cache, which takes what it lacks from a URL and gives what is new.

    What fails there is told once, and the run goes on with the own cache alone. Raise QpipeError
    where a library for the URL is missing.
    """

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self.url = url
        self.files = RemoteFiles(url, self._tell)
        self._lacking_until: dict[str, float] = {}  # path there -> by the monotonic clock
        self._present: set[str] = set()  # paths of results that are known to lie there

    def expect(self, kind: str, key: str) -> None:
        """Look for a result again that was not there a moment ago."""
        self._lacking_until.pop(_path(kind, key), None)

    def share(self, kind: str, key: str) -> None:
        """Copy a result to the URL that may have been made before there was one."""
        path = _path(kind, key)
        if path in self._present or not Cache.has(self, kind, key):
            return
        if self.files.has(path):
            self._present.add(path)
        else:
            self._give(kind, key)

    def _tell(self, message: str) -> None:
        self.notify(message)

    def _take(self, kind: str, key: str) -> bool:
        self.folder(kind, key)  # raises for a key that is a path
        path = _path(kind, key)
        if time.monotonic() < self._lacking_until.get(path, 0.0):
            return False
        with self.new_scratch_folder() as scratch:
            archive = scratch / "result.zip"
            if self.files.fetch(path, archive) and self._unpack(archive, kind, key):
                self._present.add(path)
                return True
        self._lacking_until[path] = time.monotonic() + LACKING_S
        return False

    def _unpack(self, archive: Path, kind: str, key: str) -> bool:
        try:
            with zipfile.ZipFile(archive) as packed, Cache.put(self, kind, key) as value:
                _copy_files(packed, key, value)
        except (OSError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}"
            self.notify(f"{self.url}/{_path(kind, key)}: not used, it is damaged: {reason}")
            return False
        return True

    def _give(self, kind: str, key: str) -> None:
        with self.new_scratch_folder() as scratch:
            archive = scratch / "result.zip"
            try:
                _pack(self.folder(kind, key), archive)
            except OSError as error:  # the result itself is in place
                self.notify(f"{archive}: {error.strerror}; the result was not given to others")
            else:
                if self.files.put(archive, _path(kind, key)):
                    self._present.add(_path(kind, key))


def _path(kind: str, key: str) -> str:
    """Return where a result lies below the URL."""
    return f"{kind}/{key}.zip"


def _pack(entry: Path, archive: Path) -> None:
    """Write an entry into one file; networks and samples would not become smaller by much."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in entry.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(str(file.relative_to(entry)), BEGINNING)
            member.external_attr = READABLE_FILE
            member.file_size = file.stat().st_size
            with file.open("rb") as source, packed.open(member, "w") as target:
                shutil.copyfileobj(source, target)


def _copy_files(packed: zipfile.ZipFile, key: str, target: Path) -> None:
    """Copy what the manifest names; raise ValueError where a file is not what its digest says."""
    manifest = packed.getinfo(MANIFEST)
    digests = parse_manifest(json.loads(_content(packed, manifest)), key)
    for name, digest in digests.items():
        path = target / name
        if not path.resolve().is_relative_to(target.resolve()):
            raise ValueError(f"a file outside: {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        member = _stored(packed.getinfo(f"{VALUE}/{name}"))
        with packed.open(member) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        if digest_file(path) != digest:
            raise ValueError(f"{name} is not what it was")


def _content(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with packed.open(_stored(member)) as file:
        return file.read()


def _stored(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return a member that takes as much room as it says; raise ValueError for one that unfolds."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    return member
