"""Files at a URL: S3, Google's storage, SSH, a folder, whatever fsspec reaches.

A place that cannot be used is left alone for a while: whoever asks goes on without it.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING

from qpipe.errors import QpipeError, printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\0]+")
PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@]*:[^/@]*@")
CHAINED = "::"  # one file system behind another
INSTALL = "install fsspec: pip install 'qpipe-edge[remote-cache]'"
# fsspec's own accepts any host key; this one is the SSH driver's
SSH = ("sftp", "ssh")
CHECKED_SSH = "qpipe-sftp"
LOCAL = "file"
ALL_MAY_WRITE = 0o002  # mode
PAUSE_S = 60.0  # after a failure, until the place is used again


def url_problem(url: str) -> str | None:
    """Return what is wrong with a URL, in words that follow it; None where it may be used."""
    if not URL.fullmatch(url) or CHAINED in url:
        return "is no URL; give one such as s3://BUCKET/FOLDER or sftp://HOST/FOLDER"
    if PASSWORD.match(url):
        return "holds a password, which would be stored with each run; use a key or an agent"
    return None


def hidden(url: str) -> str:
    """Return a URL without the password in it."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:...@", url)


class RemoteFiles:
    """The files below a URL, by their paths there.

    Raise QpipeError for what needs another library, or where everybody may write. Later failures
    are passed to `notify`, each reason once.
    """

    def __init__(self, url: str, notify: Callable[[str], None]) -> None:
        self.url = url
        self.notify = notify
        self.usable_at = 0.0  # by the monotonic clock
        self._reported: set[str] = set()
        self._files: AbstractFileSystem | None = None
        self._root = ""
        self._lock = Lock()
        protocol = url.partition("://")[0]
        self.address = f"{CHECKED_SSH}{url[len(protocol) :]}" if protocol in SSH else url
        _check_library(url, self.address)
        if protocol == LOCAL:
            _check_mode(Path(url.removeprefix("file://")))

    def fetch(self, path: str, target: Path) -> bool:
        """Copy a file to `target`; return whether there is one that can be reached."""

        def copy(files: AbstractFileSystem) -> bool:
            try:
                files.get_file(self._place(path), str(target))
            except FileNotFoundError:
                return False
            return True

        return self._try(copy)

    def has(self, path: str) -> bool:
        """Return whether there is a file that can be reached."""
        return self._try(lambda files: bool(files.exists(self._place(path))))

    def put(self, source: Path, path: str) -> bool:
        """Copy a file there, as a whole or not at all; return whether it is there."""

        def copy(files: AbstractFileSystem) -> bool:
            folder = str(PurePosixPath(path).parent)
            unfinished = self._place(f"{folder}/.new-{uuid.uuid4().hex}")
            with suppress(FileExistsError):
                # not the folder of the URL: a name that is written wrongly makes none
                files.mkdir(self._place(folder), create_parents=False)
            try:
                files.put_file(str(source), unfinished)
                files.mv(unfinished, self._place(path))
            except BaseException:
                with suppress(Exception):
                    files.rm_file(unfinished)
                raise
            return True

        return self._try(copy)

    def problem(self) -> str:
        """Return why the place cannot be used now; empty where it can."""
        try:
            self._open().exists(self._root)
        except Exception as error:  # noqa: BLE001  (as above)
            return f"{self.url}: {_reason(error)}"
        return ""

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _try(self, action: Callable[[AbstractFileSystem], bool]) -> bool:
        """Return what an action returns; False where the place cannot be used."""
        if time.monotonic() < self.usable_at:
            return False
        try:
            return action(self._open())
        except Exception as error:  # noqa: BLE001  (each file system raises kinds of its own)
            self._note_failure(error)
            return False

    def _open(self) -> AbstractFileSystem:
        from fsspec.core import url_to_fs

        with self._lock:
            if self._files is None:
                # one of this object: fsspec would share it with none of its threads
                self._files, root = url_to_fs(self.address, skip_instance_cache=True)
                self._root = root.rstrip("/")
            return self._files

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            reason = _reason(error)
            is_new = reason not in self._reported
            self._reported.add(reason)
            self.usable_at = time.monotonic() + PAUSE_S
            self._files = None  # it is opened anew
        if is_new:
            self.notify(f"{self.url}: {reason}; results are kept on this machine alone meanwhile")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such folder; make it"
    return printable(str(error)) or type(error).__name__


def _check_library(url: str, address: str) -> None:
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise QpipeError(f"{url}: {error}; {INSTALL}") from error
    try:
        get_filesystem_class(address.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise QpipeError(f"{url}: {error}; install that, or give another URL") from error


def _check_mode(folder: Path) -> None:
    with suppress(OSError):
        if folder.stat().st_mode & ALL_MAY_WRITE:
            reason = "everybody may write there, and a build brings the program that runs it"
            raise QpipeError(f"file://{folder}: {reason}; chmod o-w {folder}")
