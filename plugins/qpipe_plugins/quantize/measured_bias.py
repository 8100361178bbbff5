"""Bias correction by samples: the bias takes up what a layer's outputs lack on average.

Nagel et al. 2019 (arXiv 1906.04721), with measured means.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.moments import input_rows
from qpipe.quant.piecewise_inference import MemoryBudget, PiecewiseInference
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress
from qpipe_plugins.quantize.paired_layers import PairedLayer, pair_layers

# means need less than second moments: memory for activations, positions per feature map
MEMORY_MB = 512
POSITIONS = 32


def shift_biases(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    count: int,
    workdir: Path,
    progress: Progress,
) -> None:
    """Shift the bias of each layer by what its outputs lack on average, over `count` samples.

    Layers are taken in the order of the graph, so that the inputs of a layer are those that the
    layers before it, corrected already, give. Costs two inferences per sample.
    """
    layers = [
        layer for layer in pair_layers(model, float_model, "correct_bias") if layer.takes_bias
    ]
    nodes = [layer.node for layer in layers]
    float_nodes = [layer.float_node for layer in layers]
    budget = MemoryBudget(workdir, MEMORY_MB << 20)
    inference = PiecewiseInference(model, nodes, samples, count, budget)
    float_inference = PiecewiseInference(float_model, float_nodes, samples, count, budget)
    with inference, float_inference:
        for index, layer in enumerate(layers):
            progress(index, len(layers), "layers")
            mean_input = _mean_input(layer, inference.inputs(layer.node))
            float_mean_input = _mean_input(layer, float_inference.inputs(layer.float_node))
            float_weights = layer.to_groups(layer.float_weight.array)
            lack = np.einsum("gko,gk->go", float_weights, float_mean_input - mean_input)
            assert layer.weight.quantized is not None
            shift_bias(model, layer, layer.weight.quantized, mean_input=mean_input, mean_lack=lack)


def shift_bias(
    model: ir.Model,
    layer: PairedLayer,
    quantized: qdq.QuantizedWeight,
    *,
    mean_input: Array,
    mean_lack: Array,
) -> None:
    """Set the bias to that of the float layer plus what the outputs lack on average.

    `mean_input` [G, K] is the mean of what the quantized layer multiplies; `mean_lack` [G, O] is
    what float weights would lack with these inputs. The error of the weights adds to it.
    """
    weights = layer.to_groups(quantized.dequantize()).astype(np.float64)
    weight_error = layer.to_groups(layer.float_weight.array) - weights
    shift = mean_lack + np.einsum("gko,gk->go", weight_error, mean_input)
    bias = qdq.bias(layer.float_node)
    qdq.set_bias(model, layer.node, (0 if bias is None else bias) + shift.reshape(-1))


def _mean_input(layer: PairedLayer, inputs: Iterator[Array]) -> Array:
    """Return the mean of what the layer multiplies by its weights, [G, K]."""
    shape = layer.weight.array.shape
    count = 0
    total = np.zeros(())
    for sample, array in enumerate(inputs):
        rows = input_rows(layer.node, shape, array, places=POSITIONS, sample=sample)
        count += rows.shape[1]
        # a product with ones is many times faster than sum()
        ones = np.ones((1, rows.shape[1]), np.float32)
        total = total + (ones @ rows)[:, 0]
    return np.asarray(total / count)
