"""What turns a network's outputs into answers."""

from __future__ import annotations

import qpipe
from qpipe_plugins.postprocess.ssd_boxes import ssd_boxes


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("postprocess", ssd_boxes)
