"""A metric night by night, as the nights of a lab measured it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.errors import QpipeError, suggest
from qpipe.storage.workspace import DEFAULT_DB, open_nights

if TYPE_CHECKING:
    from qpipe.nightly.series import Series

NIGHTS = 90


def trend(
    metric: str, *, lab: str | None = None, nights: int = NIGHTS, db: Path | str = DEFAULT_DB
) -> list[Series]:
    """Return a metric over the newest nights of a lab: a series for each build on each device.

    The lab is by default that of the newest night. Raise QpipeError where it has no nights.
    """
    from qpipe.nightly.series import read_series

    with open_nights(Path(db)) as store:
        labs = store.labs()
        if lab is not None and lab not in labs:
            raise QpipeError(f"--lab {lab}: it has no nights here; {suggest(lab, labs)}")
        if not labs:
            raise QpipeError("there are no nights yet; begin with: qpipe nightly LAB.yaml")
        name = lab or labs[-1]
        names = [row["night"] for row in store.nights(name)]
        return read_series(store, name, names[-nights:], [metric])
