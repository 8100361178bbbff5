"""Inputs that look like states, which outputs feed at the next chunk of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.start.network_facts import Tensor

OUTPUT_MARKS = ("new", "next", "out", "present", "n")
INPUT_MARKS = ("prev", "past", "last", "in", "init", "0")


def likely_states(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """Return the output that may feed each input: alike in type and shape, and named alike."""
    states: dict[str, str] = {}
    for tensor in inputs[1:]:
        stem = _stem(tensor.name, INPUT_MARKS)
        similar = [
            output.name
            for output in outputs
            if _are_alike(output, tensor)
            and stem in (_stem(output.name, OUTPUT_MARKS), output.name.lower())
        ]
        if len(similar) == 1:
            states[tensor.name] = similar[0]
    return states


def _are_alike(output: Tensor, state: Tensor) -> bool:
    """Return whether an output has the type of a state, and its shape where both are known."""
    if output.dtype != state.dtype or len(output.shape) != len(state.shape):
        return False
    sizes = zip(output.shape, state.shape, strict=True)
    return all(isinstance(size, str) or size == other for size, other in sizes)


def _stem(name: str, marks: Sequence[str]) -> str:
    """Return a name without what tells that it is the state before or after: h0 and hn are h."""
    stem = name.lower()
    for mark in marks:
        stem = stem.removeprefix(f"{mark}_").removesuffix(f"_{mark}").removesuffix(f".{mark}")
    shorter = stem.removesuffix(marks[-1])
    return shorter or stem
