"""Modules that are expensive to import and rarely used: loaded when their names are first used."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

# onnx_ir computes with symbolic dimensions by sympy, which no stage of qpipe asks for; importing it
# takes as long as the rest of a short command
DELAYED = ("sympy", "onnx_ir._symbolic_shapes")


class _DelayingFinder:
    """Finds these modules as usual, and delays their execution (importlib.util.LazyLoader)."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in DELAYED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def delay() -> None:
    """Delay the import of DELAYED in this process, unless it has happened."""
    if _DelayingFinder not in sys.meta_path:
        sys.meta_path.insert(0, _DelayingFinder)


@contextmanager
def hide(name: str) -> Iterator[None]:
    """Let a module count as not installed meanwhile, unless it was imported before."""
    is_hidden = name not in sys.modules
    if is_hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_hidden:
            del sys.modules[name]
