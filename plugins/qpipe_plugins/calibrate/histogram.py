"""Calibration by histogram: one pass over the samples that serves every way to choose a range."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import onnx_ir as ir

from qpipe.quant.activations import limited
from qpipe.quant.inference import inferences, session
from qpipe.quant.qdq import WEIGHTED
from qpipe.quant.statistics import InfinityError, Statistics, Tally
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Threads
from qpipe.types import Array, Progress

log = logging.getLogger(__name__)


def histogram(
    model: ir.Model,
    calibration_samples: Samples,
    progress: Progress,
    *,
    samples: Count | None = None,
    threads: Threads = 1,
) -> Statistics:
    """Gather extremes, moments and a histogram of every activation, in one pass and constant memory.

    Costs about three inferences per sample. Bins are the upper 16 bits of the float32 pattern, so no range is needed
    beforehand, and minmax, percentile, mse and entropy ranges all follow from the result. Tensors without a range have
    no statistics and so stay float: those that are empty, and those with the infinities of a mask.
    """
    names = activations(model)
    inputs = [value.name for value in model.graph.inputs if value.name in names]
    inner = [name for name in names if name not in inputs]
    tallies = {name: Tally(name) for name in names}
    running = session(model, inner, threads=threads)
    total = len(calibration_samples) if samples is None else min(samples, len(calibration_samples))
    layers = {node.outputs[0].name for node in model.graph if node.op_type in WEIGHTED}
    for done, arrays in enumerate(_ahead(inferences(running, calibration_samples, total))):
        _take(
            tallies, calibration_samples.feeds(done, inputs) if inputs else {}, {*inputs, *layers}
        )
        _take(tallies, arrays, {*inputs, *layers})
        progress(done + 1, total, "samples")
    return Statistics(tally.statistics() for tally in tallies.values() if tally.count)


def activations(model: ir.Model) -> list[str]:
    """Names of the tensors that a quantizer can want, in graph order: float32, dependent on the input, of one known
    shape, and not merely on their way into a Relu or Clip, whose limits the integers' own saturation takes over."""
    nodes = [node for node in model.graph if node.op_type not in ("Constant", "ConstantOfShape")]
    values = [*model.graph.inputs, *(value for node in nodes for value in node.outputs)]
    return [value.name for value in values if value.name and _is_wanted(value)]


def _is_wanted(value: ir.Value) -> bool:
    if value.dtype != ir.DataType.FLOAT or value.shape is None or not value.shape.is_static():
        return False
    if value.is_graph_output() or value.is_graph_input():
        return True
    return bool(value.uses()) and limited(value) is None


def _ahead(runs: Iterator[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """The same, each inferred while the caller still counts the one before."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, runs, None)
        while (arrays := upcoming.result()) is not None:
            upcoming = pool.submit(next, runs, None)
            yield arrays


def _take(tallies: dict[str, Tally], arrays: dict[str, Array], finite: set[str | None]) -> None:
    """Count arrays; infinity, unless in one that must be finite, ends the tally of its tensor."""
    for name in list(arrays):
        array = arrays.pop(name)
        try:
            if name in tallies:
                tallies[name].add(array)
        except InfinityError:
            if name in finite:
                raise
            log.warning("no statistics of '%s': it holds infinity", name)
            del tallies[name]
