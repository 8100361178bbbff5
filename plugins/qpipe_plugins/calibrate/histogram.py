"""Calibration by histogram: one pass over the samples that serves every way to choose a range."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import onnx_ir as ir

from qpipe.quant.activations import clipped_output
from qpipe.quant.graph import has_known_shape
from qpipe.quant.inference import inferences, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.quant.qdq import WEIGHTED
from qpipe.quant.statistics import InfinityError, Statistics, StatisticsAccumulator
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
    """Gather extremes, moments and a histogram of every activation in one pass, constant memory.

    Costs about three inferences per sample. Bins are the upper 16 bits of the float32 pattern, so
    no range is needed beforehand, and minmax, percentile, mse and entropy ranges all follow from
    the result. Tensors without a range have no statistics and so stay float: those that are empty,
    and those that hold the infinities of a mask.
    """
    names = activation_names(model)
    graph_inputs = [value.name for value in model.graph.inputs if value.name in names]
    computed = [name for name in names if name not in graph_inputs]
    layer_outputs = [node.outputs[0].name for node in model.graph if node.op_type in WEIGHTED]
    must_be_finite = {*graph_inputs, *layer_outputs}
    total = len(calibration_samples)
    if samples is not None:
        total = min(samples, total)
    accumulators = {name: StatisticsAccumulator(name) for name in names}
    session = open_session(model, computed, threads=threads)
    for index, arrays in enumerate(_run_ahead(inferences(session, calibration_samples, total))):
        if graph_inputs:
            feeds = calibration_samples.feeds(index, input_shapes(model, graph_inputs))
            _accumulate(accumulators, feeds, must_be_finite)
        _accumulate(accumulators, arrays, must_be_finite)
        progress(index + 1, total, "samples")
    return Statistics(
        accumulator.statistics() for accumulator in accumulators.values() if accumulator.count
    )


def activation_names(model: ir.Model) -> list[str]:
    """Return the names of the tensors that a quantizer may need the range of, in graph order.

    They are float32, depend on the input and have a shape that no values decide. Left out are those
    that only a Relu or Clip reads: the saturation of its integers takes over its limits.
    """
    values = list(model.graph.inputs)
    for node in model.graph:
        if node.op_type not in ("Constant", "ConstantOfShape"):
            values.extend(node.outputs)
    return [value.name for value in values if value.name and _needs_range(value)]


def _needs_range(value: ir.Value) -> bool:
    is_float = value.dtype == ir.DataType.FLOAT and isinstance(value.type, ir.TensorType)
    if not is_float or not has_known_shape(value):
        return False
    if value.is_graph_output() or value.is_graph_input():
        return True
    return bool(value.uses()) and clipped_output(value) is None


def _run_ahead(runs: Iterator[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Yield the same results, each inferred while the caller still counts the one before."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, runs, None)
        while (arrays := upcoming.result()) is not None:
            upcoming = pool.submit(next, runs, None)
            yield arrays


def _accumulate(
    accumulators: dict[str, StatisticsAccumulator],
    arrays: dict[str, Array],
    must_be_finite: Collection[str | None],
) -> None:
    """Count arrays, and empty the dict meanwhile, so that each is freed once it is counted.

    Infinity ends the statistics of its tensor; raise InfinityError where the tensor must be finite.
    """
    for name in list(arrays):
        array = arrays.pop(name)
        try:
            if name in accumulators:
                accumulators[name].add(array)
        except InfinityError:
            if name in must_be_finite:
                raise
            log.warning("no statistics of '%s': it holds infinity", name)
            del accumulators[name]
