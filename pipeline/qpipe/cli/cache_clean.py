"""qpipe cache clean."""

from __future__ import annotations

from typing import Annotated

import typer

from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    CacheOption,
    DryRunOption,
    JsonOption,
    KeepMbOption,
    OlderThanOption,
)
from qpipe.cli.tables import print_json, print_text
from qpipe.errors import RecipeError, suggest

SECONDS_PER_DAY = 24 * 3600


def cache_clean(
    kind: Annotated[
        str | None, typer.Option("--kind", help="Remove only results of this kind.")
    ] = None,
    older_than: OlderThanOption = None,
    keep_mb: KeepMbOption = None,
    dry_run: DryRunOption = False,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Remove cached results: all, or those that match every option.

    Results that a run is using are kept.
    """
    from qpipe.cli.cache_sizes import BYTES_PER_MB, sizes_by_kind, total_bytes
    from qpipe.errors import shown
    from qpipe.storage.cache import Cache

    results = Cache(cache)
    kinds = {entry.kind for entry in results.entries()}
    if kind is not None and kind not in kinds:
        raise RecipeError(
            f"--kind {kind}: {shown(cache)} holds no results of this kind; {suggest(kind, kinds)}"
        )
    older_than_s = None if older_than is None else older_than * SECONDS_PER_DAY
    keep_bytes = None if keep_mb is None else keep_mb * BYTES_PER_MB
    removed, in_use = results.clean(
        kind, older_than_s=older_than_s, keep_bytes=keep_bytes, dry_run=dry_run
    )
    freed_bytes = total_bytes(removed)
    if as_json:
        print_json(
            {
                "removed": [size.to_json() for size in sizes_by_kind(removed)],
                "freed_bytes": freed_bytes,
                "in_use": len(in_use),
                "dry_run": dry_run,
            }
        )
        return
    freed = "would be freed" if dry_run else "freed"
    noun = "result" if len(removed) == 1 else "results"
    freed_mb = freed_bytes / BYTES_PER_MB
    print_text(f"{shown(cache)}: {freed_mb:.1f} MB {freed}, {len(removed)} {noun}")
    if in_use:
        mb_in_use = total_bytes(in_use) / BYTES_PER_MB
        print_text(f"{len(in_use)} more ({mb_in_use:.1f} MB) are kept: a run is using them")
