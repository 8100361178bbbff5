"""A cache in front of a folder in which users leave results for each other, as on a cluster.

Each user has a folder of their name there, which others may read. A result is taken only from
named users, and by its manifest: a file that nobody else can have written, with the digests of all
that belongs to the result.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qpipe.digests import digest_file
from qpipe.errors import QpipeError
from qpipe.storage.cache import (
    MANIFEST,
    OTHERS_MAY_WRITE,
    VALUE,
    Cache,
    FrontCache,
    parse_manifest,
)

READABLE_FOLDER = 0o755  # mode
READABLE_FILE = 0o644
# no links, no waiting for the other end of a pipe
SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
ROOT = 0  # user id


@dataclass(frozen=True)
class Sharing:
    """A shared folder, and the user ids of those whose results are taken, by their names."""

    folder: Path
    users: Mapping[str, int]


class SharingCache(FrontCache):
    """A user's own cache, which takes what it lacks from a shared folder and gives what is new.

    Raise QpipeError where others could replace what the user has in that folder.
    """

    def __init__(self, root: Path, sharing: Sharing) -> None:
        super().__init__(root)
        name = _user_name()
        self.shared_folder = sharing.folder
        self.users = {name: os.geteuid(), **sharing.users}
        _check_shared_folder(sharing.folder, {ROOT, *self.users.values()})
        self.published = _open_published(sharing.folder / name)

    def _give(self, kind: str, key: str) -> None:
        if self.published.has(kind, key):
            return
        try:
            with self.published.put(kind, key) as value:
                shutil.copytree(self.value_folder(kind, key), value, dirs_exist_ok=True)
            _make_readable(self.published.folder(kind, key))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"{self.published.root}: the result was not given to others: {reason}"
            fix = "correct that, or take `cache` out of the recipe; the result itself is kept"
            raise QpipeError(f"{message}; {fix}") from error

    def _take(self, kind: str, key: str) -> bool:
        """Copy a result of the first named user who has it; return whether there was one."""
        self.folder(kind, key)  # raises for a key that is a path
        for user, user_id in self.users.items():
            with ExitStack() as stack:
                try:
                    entry = _open_entry(stack, self.shared_folder / user, (kind, key), user_id)
                    digests = _read_digests(entry, key, user_id)
                    with Cache.put(self, kind, key) as value:
                        _copy_files(entry, digests, value)
                except (OSError, ValueError):
                    continue  # not there, not theirs, or not whole: as good as absent
                return True
        return False


def _user_name() -> str:
    user_id = os.geteuid()
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        reason = f"user {user_id} has no name on this machine, by which others could take results"
        raise QpipeError(f"cache: {reason}; run as a user with a name") from None


def _check_shared_folder(folder: Path, trusted: set[int]) -> None:
    """Raise QpipeError where others could replace the folders of users."""
    fix = "make it as root, for example: mkdir -m 1777"
    try:
        status = folder.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QpipeError(f"{folder}: cannot be shared: {reason}; {fix} {folder}") from error
    if status.st_uid not in trusted:
        raise QpipeError(f"{folder}: the shared folder belongs to a user who is not named; {fix}")
    if status.st_mode & OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX:
        reason = "others may replace what lies in the shared folder"
        raise QpipeError(f"{folder}: {reason}; set its sticky bit: chmod +t {folder}")


def _open_published(folder: Path) -> Cache:
    """Return the cache of what this user publishes, readable by others."""
    if folder.is_symlink():
        raise QpipeError(f"{folder}: this is a link, put there by somebody else; remove it")
    try:
        folder.mkdir(READABLE_FOLDER, exist_ok=True)
        published = Cache(folder)
        folder.chmod(READABLE_FOLDER)  # whatever the umask
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"{folder}: cannot be made: {reason}"
        raise QpipeError(f"{message}; let users write there: chmod 1777 {folder.parent}") from error
    return published


def _make_readable(entry: Path) -> None:
    """Let everybody read an entry and what lies in it, and nobody else change it."""
    folders = [entry.parent, entry]
    for path in entry.rglob("*"):
        if path.is_dir():
            folders.append(path)
        else:
            path.chmod(READABLE_FILE)
    for folder in folders:
        folder.chmod(READABLE_FOLDER)


def _open_entry(stack: ExitStack, folder: Path, names: tuple[str, str], user_id: int) -> int:
    """Return the descriptor of an entry; each folder on the way to it is that user's alone."""
    descriptor = _open_theirs(str(folder), user_id, os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    for name in names:
        descriptor = _open_theirs(name, user_id, os.O_DIRECTORY, descriptor)
        stack.callback(os.close, descriptor)
    return descriptor


def _open_theirs(name: str, user_id: int, flags: int, parent: int | None = None) -> int:
    """Open a file or a folder; raise PermissionError where it is not that user's alone."""
    descriptor = os.open(name, SAFELY | flags, dir_fd=parent)
    status = os.fstat(descriptor)
    if status.st_uid != user_id or status.st_mode & OTHERS_MAY_WRITE:
        os.close(descriptor)
        raise PermissionError(name)
    return descriptor


def _read_digests(entry: int, key: str, user_id: int) -> dict[str, str]:
    """Return the digests of the files of an entry; raise ValueError for what is no manifest."""
    with open(_open_theirs(MANIFEST, user_id, 0, entry), encoding="utf-8") as file:
        return parse_manifest(json.load(file), key)


def _copy_files(entry: int, digests: Mapping[str, str], target: Path) -> None:
    """Copy the files of an entry; raise ValueError where one is not what its digest says."""
    for name, digest in digests.items():
        path = target / name
        if not path.resolve().is_relative_to(target.resolve()):
            raise ValueError("a file outside")
        path.parent.mkdir(parents=True, exist_ok=True)
        source = os.open(f"{VALUE}/{name}", SAFELY, dir_fd=entry)
        with open(source, "rb") as file, path.open("wb") as copy:  # noqa: PTH123  (of a descriptor)
            shutil.copyfileobj(file, copy)
        if digest_file(path) != digest:
            raise ValueError("not what it was")
