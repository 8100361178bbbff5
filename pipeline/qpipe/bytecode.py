"""Python files of users, imported without a trace in their folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Write no bytecode meanwhile: a folder of the user stays as it is, and so does its digest."""
    dont_write_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = dont_write_bytecode
