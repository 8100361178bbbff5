"""The options that a measuring stage passes to each of its rounds, beside the number of values."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.types import RoundOptions


def round_options(
    *,
    threads: int | None,
    batch: int,
    affinity: Sequence[int] | None = None,
    governor: str | None = None,
    cool_to_c: float | None = None,
    max_load: float | None = None,
) -> RoundOptions:
    """Return the `options` of Device.round: those that are not None, a batch only if above 1."""
    options: RoundOptions = {}
    if threads is not None:
        options["threads"] = threads
    if batch > 1:
        options["batch"] = batch
    if affinity:
        options["affinity"] = list(affinity)
    if governor is not None:
        options["governor"] = governor
    if cool_to_c is not None:
        options["cool_to_c"] = cool_to_c
    if max_load is not None:
        options["max_load"] = max_load
    return options
