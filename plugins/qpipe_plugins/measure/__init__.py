"""Built-in stages of kind measure."""

from __future__ import annotations

import qpipe
from qpipe_plugins.measure.accuracy import accuracy
from qpipe_plugins.measure.latency import latency
from qpipe_plugins.measure.memory import memory
from qpipe_plugins.measure.size import size


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """The built-in measurements."""
    register("measure", accuracy)
    register("measure", size)
    register("measure", latency, cached=False)
    register("measure", memory, cached=False)
