"""known_hosts files: whose keys are trusted, which are revoked, and how one is pinned. Keys are compared as bytes, so a
line of a type that nobody here knows costs nobody else theirs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class HostKey(NamedTuple):
    """A host's public key as it travels; it prints as OpenSSH shows it."""

    kind: str  # ssh-ed25519, ecdsa-sha2-nistp256, ssh-rsa, ...
    blob: bytes

    @property
    def word(self) -> str:
        """What OpenSSH calls its type: ed25519, ecdsa, rsa."""
        return (
            self.kind.removeprefix("sk-").removeprefix("ssh-").partition("-")[0].partition("@")[0]
        )

    def __str__(self) -> str:
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.word.upper()} SHA256:{digest}"


class Known(NamedTuple):
    """What known_hosts files say of a name."""

    trusted: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]


def look_up(files: Iterable[Path], name: str) -> Known:
    """The keys trusted for a name (`host`, or `[host]:port` for another port than 22), and those revoked for it.

    Lines of certificate authorities are passed over (host certificates are not supported), as are broken ones.
    """
    entries = [entry for file in files for entry in _entries(file) if _matches(entry.names, name)]
    revoked = tuple(entry.key for entry in entries if entry.marker == "@revoked")
    return Known(tuple(e.key for e in entries if not e.marker and e.key not in revoked), revoked)


def name_of(host: str, port: int) -> str:
    """How known_hosts files call a host."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def pin(file: Path, name: str, key: HostKey) -> None:
    """Make this the one key of a name; other names, comments and lines with a marker stay as they are."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        lines = []
    kept = [text for line in lines for text in _without(line, name)]
    kept.append(f"{name} {key.kind} {base64.b64encode(key.blob).decode()}")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text("\n".join(kept) + "\n", encoding="utf-8", errors="surrogateescape")
    if file.exists():
        aside.chmod(file.stat().st_mode)
    aside.replace(file.resolve())


@contextmanager
def restored(file: Path) -> Iterator[None]:
    """Whatever fails in here leaves the file as it was."""
    before = file.read_bytes() if file.is_file() else None
    try:
        yield
    except BaseException:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)
        raise


class _Entry(NamedTuple):
    marker: str
    names: str
    key: HostKey


def _entries(file: Path) -> Iterator[_Entry]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if entry := _entry(line):
            yield entry


def _entry(line: str) -> _Entry | None:
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#"):
        return None
    try:
        return _Entry(
            marker, words[0], HostKey(words[1], base64.b64decode(words[2], validate=True))
        )
    except binascii.Error:
        return None


def _without(line: str, name: str) -> list[str]:
    """The line, less this name: gone where it has no other. A pattern is nobody's name and stays."""
    entry = _entry(line)
    if entry is None or entry.marker:
        return [line]
    left = [word for word in entry.names.split(",") if not _is(word, name)]
    return [line.replace(entry.names, ",".join(left), 1)] if left else []


def _matches(names: str, name: str) -> bool:
    """As OpenSSH: patterns with * and ?, `!` before one that must not match, names that are hashed."""
    found = False
    for word in names.split(","):
        pattern = re.escape(word.removeprefix("!").lower()).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(pattern, name) or _is(word, name):
            if word.startswith("!"):
                return False
            found = True
    return found


def _is(word: str, name: str) -> bool:
    if not word.startswith("|1|"):
        return word.lower() == name
    try:
        salt, digest = (base64.b64decode(part) for part in word.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
