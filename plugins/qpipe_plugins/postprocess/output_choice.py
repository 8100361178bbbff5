"""The choice of the output that a postprocess stage takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qpipe.errors import StageError

if TYPE_CHECKING:
    from qpipe.types import Array


def choose_output(outputs: Mapping[str, Array], name: str | None, stage: str) -> tuple[str, Array]:
    """Return the name and array of an output: that of this name, or the first for None.

    Raise StageError where there is no such output.
    """
    if name is None:
        return next(iter(outputs.items()))
    if name not in outputs:
        raise StageError(f"postprocess {stage}: no output '{name}'; there is {', '.join(outputs)}")
    return name, outputs[name]
