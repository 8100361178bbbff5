"""How many samples can be trained on at a time in so much memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qpipe.quant.in_torch.operator_table import Tensor
from qpipe_plugins.quantize.training.sample_batches import Feeds

# what a step takes beside the tensors that it keeps for the gradient, in parts of these: the
# teacher's tensors, gradients, and the tensors that a node works with
BESIDE = 1.0


def samples_that_fit(loss: Callable[[Feeds], Tensor], sample: Feeds, limit: int) -> int:
    """Return how many samples a step can take at a time within `limit` bytes; at least one."""
    return max(1, int(limit / ((1 + BESIDE) * saved_bytes(loss, sample))))


def saved_bytes(loss: Callable[[Feeds], Tensor], feeds: Feeds) -> int:
    """Return the bytes of the tensors that a loss keeps for its gradient."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = loss(feeds)  # what is kept lives as long as the result
    del result
    return max(1, sum(sizes.values()))
