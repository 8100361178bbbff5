"""A limit on memory for foreign code, which a malicious network can make allocate without end."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Limit the process to `size` bytes more than it uses now; raise OverflowError beyond.

    The limit is one of address space. It applies where the system tells what a process uses and
    enforces the limit (Linux); elsewhere there is none.
    """
    if not STATM.exists():
        yield
        return
    pages = int(STATM.read_text(encoding="ascii").split()[0])
    used = pages * resource.getpagesize()
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft_limit, hard_limit) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + size, *limits]), hard_limit))
    try:
        yield
    except MemoryError:
        raise OverflowError(f"its shapes need more than {size >> 20} MB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft_limit, hard_limit))
