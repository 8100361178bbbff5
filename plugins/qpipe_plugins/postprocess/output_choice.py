"""Which of a network's outputs a postprocess stage takes."""

from __future__ import annotations

from collections.abc import Mapping

import qpipe
from qpipe.types import Array


def output(outputs: Mapping[str, Array], name: str | None, stage: str) -> tuple[str, Array]:
    """The output of that name, the first where none is given; StageError where there is none such."""
    if name is None:
        return next(iter(outputs.items()))
    if name not in outputs:
        raise qpipe.StageError(
            f"postprocess {stage}: no output '{name}'; there is {', '.join(outputs)}"
        )
    return name, outputs[name]
