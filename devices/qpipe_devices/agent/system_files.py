"""Files of the kernel that hold one value."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = "proc/sys/kernel/random/boot_id"  # another value after each boot


def read_text(path: Path) -> str | None:
    """Return the text in a file; None where it is missing or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """Return the whole number in a file; None where there is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None
