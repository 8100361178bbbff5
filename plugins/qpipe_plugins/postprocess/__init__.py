"""Built-in stages of kind postprocess: from the outputs of one sample to its answer."""

from __future__ import annotations

import qpipe
from qpipe_plugins.postprocess.ctc_greedy import ctc_greedy
from qpipe_plugins.postprocess.softmax import softmax
from qpipe_plugins.postprocess.ssd_boxes import ssd_boxes
from qpipe_plugins.postprocess.yolo_boxes import yolo_boxes


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the built-in postprocess stages."""
    for stage in (ssd_boxes, yolo_boxes, softmax, ctc_greedy):
        register("postprocess", stage)
