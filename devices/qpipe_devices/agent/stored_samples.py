"""Samples in a folder, as qpipe.samples writes them, read with nothing but numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from .failures import AgentError


class StoredSamples:
    """Samples that lie in a folder; memory holds only the index."""

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AgentError(f"{folder} holds no samples: {error}") from error
        self.preprocessing = index["preprocessing"]
        self.entries = index["samples"]
        self.content = np.memmap(str(folder / "inputs.bin"), np.uint8, "r")

    def feeds(self, index: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Sample `index` as a network with these input names takes it, batch axis added."""
        from .preprocess import feeds  # type: ignore[import-not-found,unused-ignore]  # joins the agent on its way

        inputs = {
            name: self._array(**where) for name, where in self.entries[index]["inputs"].items()
        }
        try:
            fed: dict[str, np.ndarray] = feeds(inputs, self.preprocessing, names)
        except KeyError as error:
            raise AgentError(
                f"the network takes {', '.join(names)}, the samples have {', '.join(inputs)}"
            ) from error
        return fed

    def _array(self, offset: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        return self.content[offset : offset + size].view(kind).reshape(shape)
