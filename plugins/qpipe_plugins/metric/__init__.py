"""Built-in stages of kind metric: a contribution per sample, and a reduction over samples."""

from __future__ import annotations

import qpipe
from qpipe_plugins.metric.agreement import agreement
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.metric.f1 import f1
from qpipe_plugins.metric.sqnr import sqnr
from qpipe_plugins.metric.topk import topk
from qpipe_plugins.metric.voc_map import voc_map
from qpipe_plugins.metric.wer import wer


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the built-in metrics."""
    for metric in (topk, f1, agreement, sqnr, coco_map, voc_map, wer):
        register("metric", metric)
