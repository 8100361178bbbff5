"""How torch computes here: threads, seed, device, and a heap that is not given back in between."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

# of glibc's mallopt; large tensors otherwise cost a page fault for each page, each time
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_KEPT = 2**30

log = logging.getLogger(__name__)


@contextmanager
def torch_setup(threads: int, seed: int, where: str) -> Iterator[str]:
    """Yield the device to train on; restore torch's threads and random state afterwards.

    `threads` 0 means one per core. The log, which begins with `where`, says which GPU it is.
    """
    threads_before = torch.get_num_threads()
    random_state = torch.get_rng_state()
    keep_heap()
    try:
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(seed)
        yield _device(where)
    finally:
        torch.set_num_threads(threads_before)
        torch.set_rng_state(random_state)


def _device(where: str) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    log.warning("%s: trains on %s", where, torch.cuda.get_device_name())
    return "cuda"


def keep_heap() -> None:
    """Let the C library keep what is freed: fake quantization is then several times as fast."""
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT - 1)
