"""Samples that a fit leaves out, which then tell whether what it made of a network is better."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.inference import infer, open_session
from qpipe.quant.sensitivity import decibels, relative_noise
from qpipe.samples.store import Samples
from qpipe.types import Array
from qpipe_plugins.quantize.paired_layers import copy_weight

HOLD_OUT_EVERY = 10  # one sample in so many
HOLD_OUT_OFFSET = 5
PARTS = 4  # of the network, each of which may keep its start

log = logging.getLogger(__name__)


def is_held_out(index: int, count: int) -> bool:
    """Return whether a fit to `count` samples leaves out the one at `index`."""
    return count >= HOLD_OUT_EVERY and index % HOLD_OUT_EVERY == HOLD_OUT_OFFSET


class HeldOut:
    """How far quantized networks are from float on some samples.

    Networks are simulated operator by operator, so that the processor makes no difference.
    """

    def __init__(
        self, samples: Samples, indices: Sequence[int], float_model: ir.Model, *, threads: int
    ) -> None:
        self._samples = samples
        self._indices = indices
        self._threads = threads
        self._outputs = [
            value.name or "" for value in float_model.graph.outputs if _is_comparable(value)
        ]
        self._float_outputs = list(self._infer(float_model))

    def noise(self, model: ir.Model) -> float:
        """Return the noise over the signal of the outputs; see `relative_noise`."""
        return relative_noise(self._float_outputs, self._infer(model))

    def _infer(self, model: ir.Model) -> Iterator[dict[str, Array]]:
        if not self._outputs:
            yield from [{}] * len(self._indices)
            return
        inputs = [value.name or "" for value in model.graph.inputs]
        session = open_session(model, self._outputs, threads=self._threads, optimize=False)
        for index in self._indices:
            yield infer(session, self._samples.feeds(index, inputs))


def _is_comparable(value: ir.Value) -> bool:
    """Return whether an output holds floats, as many for each sample."""
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    return is_float and value.shape is not None and value.shape.is_static()


def keep_what_helps(start: ir.Model, fitted: ir.Model, held_out: HeldOut, stage: str) -> ir.Model:
    """Return the fitted network where it is no further from float than its start.

    Elsewhere return the start with those parts of the fitted network that bring it closer, if any.
    Log what is kept. Costs one inference a sample for each network, and four more where the fit
    is worse.
    """
    start_noise = held_out.noise(start)
    fitted_noise = held_out.noise(fitted)
    log.warning(
        "%s: outputs at %.1f dB before, %.1f dB afterwards",
        stage,
        decibels(start_noise),
        decibels(fitted_noise),
    )
    if fitted_noise <= start_noise:
        return fitted
    names = _changed_weights(start, fitted)
    kept = list(names)
    best_noise = fitted_noise
    for part in _parts(names):
        fewer = [name for name in kept if name not in part]
        noise = held_out.noise(_combine(start, fitted, fewer))
        if noise < best_noise:
            kept = fewer
            best_noise = noise
    if best_noise >= start_noise:
        kept = []
        best_noise = start_noise
    log.warning(
        "%s: worse than the network that it was given, so %d of %d weights stay as they were: "
        "%.1f dB",
        stage,
        len(names) - len(kept),
        len(names),
        decibels(best_noise),
    )
    return _combine(start, fitted, kept)


def _changed_weights(start: ir.Model, fitted: ir.Model) -> list[str]:
    """Return the names of the quantized weights in both networks, in the order of the graph."""
    start_names = {weight.name for weight in qdq.weights(start)}
    return [
        weight.name
        for weight in qdq.weights(fitted)
        if weight.is_quantized and weight.name in start_names
    ]


def _parts(names: Sequence[str]) -> Iterator[Collection[str]]:
    """Yield the names in at most PARTS successive parts."""
    size = -(-len(names) // PARTS)
    for first in range(0, len(names), size):
        yield set(names[first : first + size])


def _combine(start: ir.Model, fitted: ir.Model, names: Collection[str]) -> ir.Model:
    """Return a copy of the start in which the named weights are those of the fitted network."""
    model = ir.from_proto(ir.to_proto(start))
    sources = {weight.name: weight for weight in qdq.weights(fitted)}
    for weight in qdq.weights(model):
        if weight.name in names:
            copy_weight(model, weight, sources[weight.name])
    return model
