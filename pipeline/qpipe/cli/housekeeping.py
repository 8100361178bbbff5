"""cache and db: what lies on the disk, and how it grows less or more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.errors import RecipeError, suggest
from qpipe.recipe.yaml_document import shown
from qpipe.storage.cache import Cache, Entry
from qpipe.storage.merge import merge

DAY_S = 24 * 3600


def show_cache(folder: Path, as_json: bool) -> None:
    """Print the size of the cache by kind."""
    kinds = _by_kind(Cache(folder).entries())
    if as_json:
        print_json(kinds)
        return
    table = [[k["kind"], k["entries"], f"{k['mb']:.1f}", _ago(k["oldest_use"])] for k in kinds]
    if len(kinds) > 1:
        table.append(
            ["all", sum(k["entries"] for k in kinds), f"{sum(k['mb'] for k in kinds):.1f}", ""]
        )
    if not table:
        print_text(f"{shown(folder)}: nothing is cached")
        return
    print_table(("kind", "entries", "MB", "oldest use"), table, right=("entries", "MB"))


def _by_kind(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """A row for each kind, the largest first."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.kind, []).append(entry)
    rows = [
        {
            "kind": kind,
            "entries": len(own),
            "mb": sum(entry.size for entry in own) / 1e6,
            "oldest_use": datetime.fromtimestamp(own[0].used, UTC).isoformat(timespec="seconds"),
        }
        for kind, own in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["mb"])


def _ago(iso: str) -> str:
    days = (time.time() - datetime.fromisoformat(iso).timestamp()) / DAY_S
    return "today" if days < 1 else f"{days:.0f} day{'' if days < 1.5 else 's'} ago"


def clean_cache(
    kind: str | None,
    older_than: float | None,
    keep_mb: float | None,
    dry_run: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Remove results and print what that freed."""
    cache = Cache(folder)
    kinds = {entry.kind for entry in cache.entries()}
    if kind is not None and kind not in kinds:
        raise RecipeError(
            f"--kind {kind}: {shown(folder)} holds nothing of that kind; {suggest(kind, kinds)}"
        )
    older_than_s = None if older_than is None else older_than * DAY_S
    gone, in_use = cache.clean(
        kind, older_than_s, None if keep_mb is None else keep_mb * 1e6, dry_run
    )
    if as_json:
        print_json(
            {
                "removed": _by_kind(gone),
                "freed_bytes": _size(gone),
                "in_use": len(in_use),
                "dry_run": dry_run,
            }
        )
        return
    what = "would be freed" if dry_run else "freed"
    print_text(
        f"{shown(folder)}: {_size(gone) / 1e6:.1f} MB {what}, {len(gone)} result{'' if len(gone) == 1 else 's'}"
    )
    if in_use:
        print_text(f"{len(in_use)} more ({_size(in_use) / 1e6:.1f} MB) stay: a run is using them")


def _size(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)


def merge_databases(others: Sequence[Path], db: Path, as_json: bool) -> None:
    """Merge, and print what came out of each file."""
    merged = merge(db, others)
    if as_json:
        print_json({"db": str(db), "files": [asdict(each) for each in merged]})
        return
    for line in (line for each in merged for line in each.told):
        print_text(line)
    names = ("added", "replaced", "kept", "same", "measurements", "devices")
    rows = [[shown(each.file), *(getattr(each, name) for name in names)] for each in merged]
    headings = ("runs added", *names[1:])
    print_table(("file", *headings), rows, right=headings)
    print_text(f"into {shown(db)}")
