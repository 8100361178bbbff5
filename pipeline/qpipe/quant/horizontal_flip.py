"""Samples of pictures twice: as they are, and with left and right exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Sample


class Mirrored(Samples):
    """Each sample of a folder, followed by itself seen in a mirror; inputs that are no pictures stay as they are."""

    def __init__(self, folder: Path, where: str) -> None:
        super().__init__(folder)
        if all(how.layout == "none" for how in self.preprocessing.values()):
            raise StageError(
                f"{where}: mirror, but no input of the samples is a picture; leave it out"
            )

    def __len__(self) -> int:
        return 2 * super().__len__()

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return super().__getitem__(index)
        sample = super().__getitem__(index // 2)
        return self._turned(sample) if index % 2 else sample

    def _turned(self, sample: Sample) -> Sample:
        pictures = [name for name, how in self.preprocessing.items() if how.layout != "none"]
        turned = {name: np.ascontiguousarray(sample.inputs[name][:, ::-1]) for name in pictures}
        return replace(sample, inputs={**sample.inputs, **turned})
