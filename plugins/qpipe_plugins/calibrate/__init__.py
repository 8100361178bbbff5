"""Built-in stages of kind calibrate."""

from __future__ import annotations

import qpipe
from qpipe_plugins.calibrate.histogram import histogram


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("calibrate", histogram)
