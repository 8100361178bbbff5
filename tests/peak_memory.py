"""How much more memory this process holds at once, from some moment on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESET_PEAK = "5"  # what makes Linux count the peak of a process anew: man 5 proc


@contextmanager
def peak_growth() -> Iterator[Callable[[], float]]:
    """Gives a function that returns how many MB more this process has held since, at its peak.

    The peak of a process never falls by itself: after a test that took much, another could take as much unseen.
    """
    with suppress(OSError):  # where it is not allowed, it is the growth beyond the peak before
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    before = _peak_mb()
    yield lambda: _peak_mb() - before


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1000
