"""A bound on memory for foreign code that a hostile network can drive to take all there is."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """So many bytes more than there are now, where the system can tell and keep to it (Linux); OverflowError beyond."""
    if not STATM.exists():
        yield
        return
    used = int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + size, *limits]), most))
    try:
        yield
    except MemoryError:
        raise OverflowError(f"its shapes need more than {size >> 20} MB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))
