"""qpipe cache."""

from __future__ import annotations

import typer

from qpipe.cli.parameters import DEFAULT_CACHE, CacheOption, JsonOption
from qpipe.cli.tables import print_json, print_table, print_text

SECONDS_PER_DAY = 24 * 3600


def cache(
    context: typer.Context, cache: CacheOption = DEFAULT_CACHE, as_json: JsonOption = False
) -> None:
    """Show the size of the cache by kind of result."""
    from qpipe.cli.cache_sizes import sizes_by_kind
    from qpipe.errors import shown
    from qpipe.storage.cache import Cache

    # options that stand before the name of a subcommand are its defaults
    context.default_map = {"clean": {"cache": cache, "as_json": as_json}}
    if context.invoked_subcommand is not None:
        return
    sizes = sizes_by_kind(Cache(cache).entries())
    if as_json:
        print_json([size.to_json() for size in sizes])
        return
    if not sizes:
        print_text(f"{shown(cache)}: the cache is empty")
        return
    table = [
        (size.kind, size.entries, f"{size.mb:.1f}", _describe_age(size.oldest_use))
        for size in sizes
    ]
    if len(sizes) > 1:
        all_entries = sum(size.entries for size in sizes)
        all_mb = sum(size.mb for size in sizes)
        table.append(("all", all_entries, f"{all_mb:.1f}", ""))
    print_table(("kind", "entries", "MB", "oldest use"), table, right=("entries", "MB"))


def _describe_age(time_text: str) -> str:
    """Return how many days ago a time in ISO 8601 was."""
    import time
    from datetime import datetime

    seconds = time.time() - datetime.fromisoformat(time_text).timestamp()
    days = seconds / SECONDS_PER_DAY
    if days < 1:
        return "today"
    return "1 day ago" if days < 1.5 else f"{days:.0f} days ago"
