"""Half-quadratic quantization, as a plugin of qpipe."""

from __future__ import annotations

import qpipe
from qpipe_hqq.stage import hqq


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the stage."""
    register("quantize", hqq)
