"""Calibration samples in batches, as torch takes them, augmented where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import TorchNetwork, to_torch
from qpipe.quant.network_inputs import input_shapes
from qpipe.samples.store import Samples

IMAGE_AXES = 4

Feeds = dict[str, Tensor]
Augment = Callable[[Feeds, torch.Generator], Feeds]

SAME = 1e-3  # of an output's largest value, by which a batch may differ from its samples


class SampleBatches:
    """Samples of a folder, in batches of at most `size` of them.

    Where the network does not compute for samples together what it does for each alone, batches
    have one sample.
    """

    def __init__(
        self, samples: Samples, network: TorchNetwork, size: int, augment: Augment | None = None
    ) -> None:
        self._samples = samples
        self._inputs = input_shapes(network.model)
        self._device = network.device
        self._augment = augment
        self.size = size if size > 1 and len(samples) > 1 and self._can_batch(network) else 1
        self._part = self.size

    def limit(self, samples: int) -> None:
        """Give batches in parts of at most so many samples, as equal as can be."""
        self._part = -(-self.size // -(-self.size // samples))

    def of(self, indices: Sequence[int]) -> Feeds:
        """Return samples together, not augmented."""
        feeds = [self._samples.feeds(index, self._inputs) for index in indices]
        together: Feeds = {}
        for name in feeds[0]:
            arrays = [feed[name] for feed in feeds]
            array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            tensor = to_torch(array).to(self._device)
            if tensor.ndim == IMAGE_AXES:  # convolutions are faster so, and give this order on
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            together[name] = tensor
        return together

    def in_order(self, indices: Sequence[int]) -> Iterator[Feeds]:
        """Yield all of some samples, not augmented, as many at a time as a part has."""
        for chosen in _chunks(indices, self._part):
            yield self.of(chosen)

    def shuffled(self, indices: Sequence[int], generator: torch.Generator) -> Iterator[list[Feeds]]:
        """Yield all of some samples once, in random order and augmented: batches, each in parts."""
        order = torch.randperm(len(indices), generator=generator).tolist()
        for places in _chunks(order, self.size):
            parts = [
                self.of([indices[place] for place in part]) for part in _chunks(places, self._part)
            ]
            if self._augment is not None:
                parts = [self._augment(part, generator) for part in parts]
            yield parts

    def _can_batch(self, network: TorchNetwork) -> bool:
        """Return whether two samples together give what each gives alone."""
        if any(shape is None or not shape or shape[0] == 0 for shape in self._inputs.values()):
            return False
        sizes = [size for shape in self._inputs.values() for size in shape or ()]
        if not all(isinstance(size, int) for size in sizes):
            return False  # samples differ in size
        with torch.no_grad():
            alone = [network.outputs(self.of([index])) for index in (0, 1)]
            try:
                together = network.outputs(self.of([0, 1]))
            except (RuntimeError, ValueError, IndexError):
                return False
        return all(_agree(together[name], [one[name] for one in alone]) for name in together)


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _agree(together: Tensor, alone: Sequence[Tensor]) -> bool:
    if any(tensor.ndim == 0 for tensor in alone):
        return False
    expected = torch.cat(list(alone))
    if together.shape != expected.shape:
        return False
    largest = max(float(expected.abs().max()), 1e-6) if expected.numel() else 1.0
    return bool((together - expected).abs().max() <= SAME * largest)
