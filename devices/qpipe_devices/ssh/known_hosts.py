"""known_hosts files: which host keys are trusted, which are revoked, and how a key is pinned.

Keys are compared as bytes, so a key of an unknown type does not prevent the use of the others.
"""

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

SSH_PORT = 22


class HostKey(NamedTuple):
    """A host's public key in its wire format; as text it is what OpenSSH prints."""

    kind: str  # ssh-ed25519, ecdsa-sha2-nistp256, ssh-rsa, ...
    blob: bytes

    @property
    def short_kind(self) -> str:
        """The type as in OpenSSH's file names: ed25519, ecdsa, rsa."""
        algorithm = self.kind.removeprefix("sk-").removeprefix("ssh-")
        return algorithm.partition("-")[0].partition("@")[0]

    def __str__(self) -> str:
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.short_kind.upper()} SHA256:{digest}"


class KnownKeys(NamedTuple):
    """The keys that known_hosts files list for one host."""

    trusted: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]


class _Entry(NamedTuple):
    marker: str  # @revoked, @cert-authority, or ""
    names: str  # the host names or patterns, separated by commas
    key: HostKey


def look_up(files: Iterable[Path], host_name: str) -> KnownKeys:
    """Return the keys of a host by its name in known_hosts files, as `known_hosts_name` gives it.

    Lines of certificate authorities are skipped, because host certificates are not supported; so
    are invalid lines.
    """
    trusted = []
    revoked = []
    for file in files:
        for entry in _read_entries(file):
            if not _names_match(entry.names, host_name):
                continue
            if entry.marker == "@revoked":
                revoked.append(entry.key)
            elif not entry.marker:
                trusted.append(entry.key)
    return KnownKeys(tuple(key for key in trusted if key not in revoked), tuple(revoked))


def known_hosts_name(host: str, port: int) -> str:
    """Return a host's name in known_hosts files: `host`, or `[host]:port` for a port but 22."""
    if port == SSH_PORT:
        return host.lower()
    return f"[{host.lower()}]:{port}"


def pin(file: Path, host_name: str, key: HostKey) -> None:
    """Make this the only key of a host.

    Other names, comments and lines with a marker stay as they are.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        lines = []
    new_lines = []
    for line in lines:
        line_without_host = _remove_name(line, host_name)
        if line_without_host is not None:
            new_lines.append(line_without_host)
    new_lines.append(f"{host_name} {key.kind} {base64.b64encode(key.blob).decode()}")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    text = "\n".join(new_lines) + "\n"
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    if file.exists():
        temporary.chmod(file.stat().st_mode)
    temporary.replace(file.resolve())


@contextmanager
def restored_on_error(file: Path) -> Iterator[None]:
    """Restore the file as it was where the block fails."""
    content = file.read_bytes() if file.is_file() else None
    try:
        yield
    except BaseException:
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(content)
        raise


def _read_entries(file: Path) -> Iterator[_Entry]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        entry = _parse_entry(line)
        if entry:
            yield entry


def _parse_entry(line: str) -> _Entry | None:
    """Return the entry of a line; None for a comment or an invalid line."""
    words = line.split()
    marker = ""
    if words and words[0].startswith("@"):
        marker = words.pop(0)
    if len(words) < 3 or words[0].startswith("#"):
        return None
    names, kind, encoded_blob = words[:3]
    try:
        blob = base64.b64decode(encoded_blob, validate=True)
    except binascii.Error:
        return None
    return _Entry(marker, names, HostKey(kind, blob))


def _remove_name(line: str, host_name: str) -> str | None:
    """Return the line without a host's name; None where it has no other name.

    A pattern is not the name of a host, so it stays.
    """
    entry = _parse_entry(line)
    if entry is None or entry.marker:
        return line
    names = [name for name in entry.names.split(",") if not _is_name(name, host_name)]
    if not names:
        return None
    return line.replace(entry.names, ",".join(names), 1)


def _names_match(names: str, host_name: str) -> bool:
    """Return whether an entry is for a host, by OpenSSH's rules.

    Patterns contain * and ?; `!` precedes one that must not match; names may be hashed.
    """
    matches = False
    for word in names.split(","):
        if _pattern_matches(word.removeprefix("!"), host_name) or _is_name(word, host_name):
            if word.startswith("!"):
                return False
            matches = True
    return matches


def _pattern_matches(pattern: str, host_name: str) -> bool:
    expression = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, host_name) is not None


def _is_name(word: str, host_name: str) -> bool:
    """Return whether a word is the host's name, in plain text or hashed (|1|salt|HMAC-SHA1)."""
    if not word.startswith("|1|"):
        return word.lower() == host_name
    try:
        salt, digest = (base64.b64decode(part) for part in word.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, host_name.encode(), "sha1"), digest)
