"""What Python files import, remembered between commands by the content of the file.

To parse all sources that a plan's keys depend on takes a second. The memo lies in the user's cache
folder ($XDG_CACHE_HOME, or ~/.cache); without it, or where it cannot be written, files are parsed
each time.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from qpipe.digests import digest_text
from qpipe.user_cache import replace_text, user_cache_file

MOST_ENTRIES = 4096
UNUSED_S = 30 * 24 * 3600  # memos of other versions that are older are removed


class RememberedImports(TypedDict):
    """What a file imports: its names, each with the level of its statement, see ImportedName."""

    names: list[tuple[int, list[str]]]
    is_complete: bool


class ImportsMemo:
    """Entries by the digest of a file's content, for one version of the parser and of Python.

    Each version has a file of its own: two installations that are used in turns keep theirs.
    """

    def __init__(self, parser: str) -> None:
        self.version = f"{parser} {sys.version}"
        self.path = user_cache_file(f"imports-{digest_text(self.version)[:16]}.json")
        self.entries: dict[str, RememberedImports] = self._load()
        self.is_changed = False
        atexit.register(self.save)

    def get(self, digest: str) -> RememberedImports | None:
        """Return the entry of a content; None where it was not parsed before."""
        return self.entries.get(digest)

    def put(self, digest: str, entry: RememberedImports) -> None:
        """Remember an entry; it is written when the process ends."""
        self.entries[digest] = entry
        self.is_changed = True

    def save(self) -> None:
        """Write the entries together with those that others have written meanwhile."""
        if not self.is_changed or self.path is None:
            return
        entries = self._load() | self.entries
        newest = dict(list(entries.items())[-MOST_ENTRIES:])
        text = json.dumps({"version": self.version, "entries": newest})
        with suppress(OSError):  # no room: the next command parses again
            replace_text(self.path, text)
            _remove_unused(self.path.parent)

    def _load(self) -> dict[str, RememberedImports]:
        if self.path is None:
            return {}
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(stored["entries"]) if stored["version"] == self.version else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _remove_unused(folder: Path) -> None:
    for memo in folder.glob("imports-*.json"):
        if time.time() - memo.stat().st_mtime > UNUSED_S:
            memo.unlink(missing_ok=True)
