"""Built-in stages of kind samples."""

from __future__ import annotations

import qpipe
from qpipe_plugins.samples.images import images
from qpipe_plugins.samples.scene_samples import scenes


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", images)
    register("samples", scenes)
