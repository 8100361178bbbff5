"""The network in training: a QDQ network whose codes, scales and biases torch learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.biases import input_scale, widen_scales
from qpipe.quant.graph import is_affine, optional_input
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.in_torch.torch_network import Replacement, TorchNetwork
from qpipe.types import Target
from qpipe_plugins.quantize.training.learned_ranges import (
    LearnedRange,
    Pair,
    find_pairs,
    learned_ranges,
)
from qpipe_plugins.quantize.training.learned_weights import LearnedBias, LearnedWeight, codebooks

State = dict[str, Tensor]


class Student:
    """A QDQ network in training, from the network that came in, which is its specification.

    What is quantized, in which codebook, per tensor or per channel, stays as it is; so do zero
    points. Raise StageError, which begins with `where`, where no weight is quantized.
    """

    def __init__(
        self,
        model: ir.Model,
        float_model: ir.Model,
        target: Target,
        where: str,
        *,
        device: str = "cpu",
    ) -> None:
        self.model = ir.from_proto(ir.to_proto(model))
        widen_scales(self.model)
        weights = [weight for weight in qdq.weights(self.model) if weight.is_quantized]
        if not weights:
            raise StageError(
                f"{where}: no weight is quantized yet; put stages before it that quantize weights "
                "and activations, such as symmetric"
            )
        for weight in weights:
            for node in weight.nodes:
                _own_bias(self.model, node)
        originals = {weight.name: weight.array for weight in qdq.weights(float_model)}
        weights = [weight for weight in qdq.weights(self.model) if weight.is_quantized]
        self.weights = {
            weight: LearnedWeight(weight, originals.get(weight.name), codebook, target, device)
            for weight, codebook in zip(weights, codebooks(weights), strict=True)
        }
        self.ranges = learned_ranges(find_pairs(self.model), target, device)
        self._range_of = {pair: learned for learned in self.ranges for pair in learned.pairs}
        self.biases = {
            node: LearnedBias(node, np.broadcast_to(array, (_channels(weight),)), device)
            for weight in weights
            for node in weight.nodes
            if (array := qdq.bias(node)) is not None and is_affine(node)
        }
        self.network = TorchNetwork(self.model, self._replacements(), device=device)

    # ---- what torch computes in place of the nodes

    def _replacements(self) -> dict[ir.Value, Replacement]:
        replacements: dict[ir.Value, Replacement] = {}
        for weight, learned in self.weights.items():
            replacements[weight.value] = Replacement((), learned.values)
        pair_of_output: dict[ir.Value, Pair] = {}
        for pair, learned_range in self._range_of.items():
            source, _ = pair.absorbed_source()
            for node in pair.dequantizers:
                output = node.outputs[0]
                replacements[output] = Replacement((source,), _rounding(learned_range, pair))
                pair_of_output[output] = pair
        for weight, learned in self.weights.items():
            for node in weight.nodes:
                if node not in self.biases:
                    continue
                value = node.inputs[2]
                assert value is not None
                pair_before = pair_of_output.get(node.inputs[0]) if node.inputs[0] else None
                replacements[value] = Replacement((), self._bias(node, learned, pair_before))
        return replacements

    def _bias(
        self, node: ir.Node, learned: LearnedWeight, pair: Pair | None
    ) -> Callable[[], Tensor]:
        """Return a function that gives a layer's bias in the steps that compile gives it."""
        fixed_scale = input_scale(node)
        bias = self.biases[node]

        def rounded() -> Tensor:
            if not fixed_scale:
                return bias.rounded(None)
            with torch.no_grad():
                scale = fixed_scale if pair is None else self._range_of[pair].scale
                step = scale * learned.scale.reshape(-1)
            return bias.rounded(step)

        return rounded

    # ---- parameters

    def weight_factors(self) -> list[Tensor]:
        """The logarithms of what the scales of weights are multiplied by."""
        factors = [learned.log_factor for learned in self.weights.values()]
        return [factor for factor in factors if factor.requires_grad]

    def range_factors(self) -> list[Tensor]:
        """The logarithms of what the scales of activations are multiplied by."""
        factors = [learned.log_factor for learned in self.ranges]
        return [factor for factor in factors if factor.requires_grad]

    def bias_values(self) -> list[Tensor]:
        """The biases."""
        return [bias.values for bias in self.biases.values()]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all that is learned, by a name that the same network always gives it."""
        for index, learned in enumerate(self.weights.values()):
            yield f"weight {index}", learned.positions
            yield f"weight scale {index}", learned.log_factor
        for index, learned_range in enumerate(self.ranges):
            yield f"range {index}", learned_range.log_factor
        for index, bias in enumerate(self.biases.values()):
            yield f"bias {index}", bias.values

    def keep_within_limits(self) -> None:
        """Bring what is learned back to where it may be: after each step."""
        with torch.no_grad():
            for learned in self.weights.values():
                learned.keep_within_limits()
            for learned_range in self.ranges:
                learned_range.keep_within_limits()

    def soften(self, strength: float) -> None:
        """Let that part of rounding apply to weights, from 0 (they are float) to 1."""
        for learned in self.weights.values():
            learned.strength = strength

    def snap(self) -> None:
        """Put the values of all weights on the levels that they round to."""
        for learned in self.weights.values():
            learned.snap()

    def state(self) -> State:
        """Return a copy of all that is learned."""
        return {name: tensor.detach().clone() for name, tensor in self.named_tensors()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            for name, tensor in self.named_tensors():
                tensor.copy_(state[name])

    # ---- the result

    def to_model(self) -> ir.Model:
        """Return the QDQ network that training made."""
        model = ir.from_proto(ir.to_proto(self.model))
        nodes = dict(zip(self.model.graph, model.graph, strict=True))
        copies = {weight.nodes: weight for weight in qdq.weights(model)}
        for weight, learned in self.weights.items():
            copy = copies[tuple(nodes[node] for node in weight.nodes)]
            qdq.quantize_weight(model, copy, learned.to_quantized())
        for node, bias in self.biases.items():
            qdq.set_bias(model, nodes[node], bias.values.detach().cpu().numpy())
        for learned_range in self.ranges:
            if learned_range.log_factor.requires_grad:
                learned_range.write(model, [nodes[node] for node in learned_range.nodes])
        return model


def _rounding(learned: LearnedRange, pair: Pair) -> Callable[[Tensor], Tensor]:
    return lambda x: learned.round(pair, x)


def _channels(weight: qdq.Weight) -> int:
    return int(weight.array.shape[weight.channel_axis])


def _own_bias(model: ir.Model, node: ir.Node) -> None:
    """Give a layer a float bias that no other node reads; zeros where it has none."""
    if node.op_type == "MatMul" or not is_affine(node):
        return
    bias = qdq.bias(node)
    if bias is None and optional_input(node, 2) is not None:
        return
    weight = node.inputs[1]
    assert weight is not None
    if bias is None:
        bias = np.zeros(1, np.float32)
    qdq.set_bias(model, node, bias)
