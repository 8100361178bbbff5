"""Samples in a folder, as qpipe.samples writes them, read with numpy alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .failures import AgentError


class StoredSamples:
    """Samples in a folder; only their index is held in memory."""

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AgentError(f"{folder} holds no samples: {error}") from error
        self.preprocessing = index["preprocessing"]
        self.entries = index["samples"]
        self.content = np.memmap(str(folder / "inputs.bin"), np.uint8, "r")

    def feeds(self, index: int, manifest: Mapping[str, Any], input_names: Sequence[str]) -> Any:
        """Return one sample as a build takes it: a SampleFeeds of qpipe.samples.sample_feeds.

        Shapes, types and states of the inputs are those of build.json.
        """
        # it becomes a module of the agent in agent_package
        module = importlib.import_module(".sample_feeds", __package__)
        declared = {entry["name"]: entry for entry in manifest.get("inputs", [])}
        network = module.NetworkInputs(
            {name: declared.get(name, {}).get("shape") for name in input_names},
            {name: declared.get(name, {}).get("dtype") for name in input_names},
            manifest.get("states", {}),
        )
        inputs = {
            name: self._read_array(**location)
            for name, location in self.entries[index]["inputs"].items()
        }
        try:
            return module.SampleFeeds(inputs, self.preprocessing, network)
        except KeyError as error:
            raise AgentError(
                f"the network takes {', '.join(input_names)}, the samples have {', '.join(inputs)}"
            ) from error

    def _read_array(self, offset: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
        element_type = np.dtype(dtype)
        size = element_type.itemsize * int(np.prod(shape, dtype=np.int64))
        return self.content[offset : offset + size].view(element_type).reshape(shape)
