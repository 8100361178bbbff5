"""known_hosts, read line by line: one line that paramiko does not know must not cost the whole file."""

from __future__ import annotations

from pathlib import Path

from paramiko import PKey, SSHException
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey


def read(path: Path) -> HostKeys:
    """The keys of a known_hosts file, without those it revokes; none where there is no file.

    Lines of certificate authorities are passed over (paramiko has no host certificates), as are broken ones.
    """
    keys, revoked = HostKeys(), set[PKey]()
    try:
        lines = path.expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return keys
    entries = []
    for line in map(str.strip, lines):
        marker, _, rest = line.partition(" ")
        if marker == "@revoked":
            revoked.update(entry.key for entry in [_entry(rest)] if entry)
        elif line and not line.startswith(("#", "@")):
            entries.append(_entry(line))
    for entry in entries:
        if entry and entry.key not in revoked:
            for name in entry.hostnames or []:
                keys.add(name, entry.key.get_name(), entry.key)
    return keys


def _entry(line: str) -> HostKeyEntry | None:
    try:
        return HostKeyEntry.from_line(line)
    except (InvalidHostKey, SSHException, ValueError):  # no key, no key of that type, no such type
        return None
