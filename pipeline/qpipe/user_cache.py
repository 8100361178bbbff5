"""The user's cache folder ($XDG_CACHE_HOME, or ~/.cache), which all commands share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_cache_file(name: str) -> Path | None:
    """Return where a file of the cache lies; None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = named if named.is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    return folder / "qpipe" / name


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole: others see the old one or the new one. Raise OSError as it comes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    written = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        written.replace(path)
    except OSError:
        written.unlink(missing_ok=True)
        raise
