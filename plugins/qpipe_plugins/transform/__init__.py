"""Built-in stages of kind transform."""

from __future__ import annotations

import qpipe
from qpipe_plugins.transform.equalize import equalize
from qpipe_plugins.transform.split import split


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the transform stages of this folder."""
    for stage in (equalize, split):
        register("transform", stage)
