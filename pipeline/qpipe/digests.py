"""SHA-256 digests of files, bytes, text and JSON, as hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path


def digest_file(path: Path) -> str:
    """Return the digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_bytes(content: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_text(text: str) -> str:
    """Return the digest of text in UTF-8; undecodable bytes of a file name stay as they are."""
    return digest_bytes(text.encode("utf-8", "surrogateescape"))


def digest_json(value: object, default: Callable[[object], object] | None = None) -> str:
    """Return the digest of a value as JSON with sorted keys; `default` converts what JSON lacks."""
    return digest_text(json.dumps(value, sort_keys=True, default=default))
