"""Built-in stages of kind deploy."""

from __future__ import annotations

import qpipe
from qpipe_plugins.deploy.copy import copy


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the built-in deploy stage."""
    register("deploy", copy)
