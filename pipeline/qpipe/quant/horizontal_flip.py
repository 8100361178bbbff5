"""Samples of images twice: as they are, and flipped horizontally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np

from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Sample


class FlippedSamples(Samples):
    """The samples of a folder, each followed by its horizontal flip.

    Inputs that are not images stay as they are. Raise StageError, which begins with `where`, where
    no input is an image.
    """

    def __init__(self, folder: Path, where: str) -> None:
        super().__init__(folder)
        self._image_inputs = [
            name for name, how in self.preprocessing.items() if how.layout != "none"
        ]
        if not self._image_inputs:
            raise StageError(
                f"{where}: horizontal_flip is set, but no input of the samples is an image; "
                "leave it out"
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
        is_flipped = index % 2 == 1
        return self._flip(sample) if is_flipped else sample

    def _flip(self, sample: Sample) -> Sample:
        """Return the sample with its images [H, W, C] reversed along W."""
        inputs = dict(sample.inputs)
        for name in self._image_inputs:
            inputs[name] = np.ascontiguousarray(inputs[name][:, ::-1])
        return replace(sample, inputs=inputs)
