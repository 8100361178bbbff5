"""Built-in stages of kind measure."""

from __future__ import annotations

import qpipe
from qpipe_plugins.measure.accuracy import accuracy
from qpipe_plugins.measure.energy import METRICS as ENERGY
from qpipe_plugins.measure.energy import energy
from qpipe_plugins.measure.latency import METRICS as LATENCY
from qpipe_plugins.measure.latency import latency
from qpipe_plugins.measure.memory import METRICS as MEMORY
from qpipe_plugins.measure.memory import memory
from qpipe_plugins.measure.placement import placement
from qpipe_plugins.measure.size import size


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """The built-in measurements."""
    register("measure", accuracy)
    register("measure", size, gives=("size_mb", "effective_bits"))
    register("measure", latency, cached=False, gives=LATENCY)
    register("measure", memory, cached=False, gives=MEMORY)
    register("measure", energy, cached=False, gives=ENERGY)
    register("measure", placement, gives=("int8_nodes",))
