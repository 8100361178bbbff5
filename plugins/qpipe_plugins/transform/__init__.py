"""Built-in stages of kind transform."""

from __future__ import annotations

import qpipe
from qpipe_plugins.transform.equalize import equalize


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("transform", equalize)
