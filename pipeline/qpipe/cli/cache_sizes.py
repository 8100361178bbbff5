"""The size of cached results, by kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qpipe.storage.cache import Entry

BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class KindSize:
    """The results of one kind."""

    kind: str
    entries: int
    mb: float
    oldest_use: str  # ISO 8601, UTC

    def to_json(self) -> dict[str, Any]:
        """Return the fields as an object."""
        return asdict(self)


def sizes_by_kind(entries: Iterable[Entry]) -> list[KindSize]:
    """Return the size of each kind, largest first; the entries come longest unused first."""
    entries_by_kind: dict[str, list[Entry]] = {}
    for entry in entries:
        entries_by_kind.setdefault(entry.kind, []).append(entry)
    sizes = []
    for kind, entries_of_kind in entries_by_kind.items():
        oldest_use = datetime.fromtimestamp(entries_of_kind[0].last_used, UTC)
        size = KindSize(
            kind=kind,
            entries=len(entries_of_kind),
            mb=total_bytes(entries_of_kind) / BYTES_PER_MB,
            oldest_use=oldest_use.isoformat(timespec="seconds"),
        )
        sizes.append(size)
    return sorted(sizes, key=lambda size: -size.mb)


def total_bytes(entries: Iterable[Entry]) -> int:
    """Return the size of results together."""
    return sum(entry.size for entry in entries)
