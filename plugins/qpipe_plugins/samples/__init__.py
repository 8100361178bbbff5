"""Built-in stages of kind samples."""

from __future__ import annotations

import qpipe
from qpipe_plugins.samples.coco import coco
from qpipe_plugins.samples.images import images
from qpipe_plugins.samples.npz import npz
from qpipe_plugins.samples.scenes import scenes
from qpipe_plugins.samples.wav import wav


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", coco)
    register("samples", images)
    register("samples", npz)
    register("samples", scenes)
    register("samples", wav)
