"""Outlier channel splitting: a channel with large weights becomes several with small ones; the function stays."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant, replace_constant
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Bits, Count, Share
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import CHANNELWISE, Chain, Layer, chains
from qpipe_plugins.transform.scaling_limits import limit

WORTH = 0.01  # a channel more must narrow a layer's range by this part
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """Chains in a row, joined by depthwise layers: all have the same channels.

    A channel may be there several times, each copy like the others. Of what the channel was, the copies in a chain
    carry a part each; layers behind add up what all copies carry.
    """

    chains: list[Chain]
    links: list[tuple[Layer, Chain, Chain]]  # depthwise, between two of the chains
    copies: Array  # int64 [C]
    parts: dict[Chain, Array] = field(default_factory=dict)  # [C]

    @property
    def layers(self) -> set[Layer]:
        return {layer for chain in self.chains for layer in (*chain.producers, *chain.consumers)}

    def heads(self) -> list[tuple[Layer, Chain]]:
        return [
            (layer, chain)
            for chain in self.chains
            for layer in chain.producers
            if not layer.is_depthwise
        ]

    def tails(self) -> list[tuple[Layer, Chain]]:
        return [
            (layer, chain)
            for chain in self.chains
            for layer in chain.consumers
            if not layer.is_depthwise
        ]

    def behind(self, chain: Chain) -> list[Chain]:
        """The chain, and those that are made of it."""
        found = [chain]
        for one in found:  # which grows meanwhile
            found += [then for _, first, then in self.links if first is one and then not in found]
        return found


def split(
    model: ir.Model,
    calibration_samples: Samples,
    progress: Progress,
    *,
    share: Share = 0.05,
    multiple: Count = 16,
    bits: Bits = 8,
    samples: Count = 64,
    tolerance: float = 0.0,
) -> ir.Model:
    """Split channels with outlying weights in several, so that one scale per tensor is finer; the function stays.

    Outlier channel splitting (Zhao et al. 2019, arXiv 1901.09504). About a part `share` of the channels between layers
    is added, which costs time and size in that measure (logged). Where their number is a `multiple`, or shares a
    divisor with it, it stays one: kernels are made for that, and take half as long again for odd numbers. Parts of a
    weight behind an activation differ by fractions of a step of `bits`, so that together they round as the whole did.
    Weights before a ReLU6 are split only with a `tolerance`, on channels where values beyond the bound that then pass
    cost at most that part of the tensor's mean power on the samples. For weights with one scale per tensor; where
    equalize works it does more, for nothing. Takes seconds.
    """
    found = chains(model.graph, CHANNELWISE)
    if tolerance:
        limit(model, found, calibration_samples, samples, tolerance, progress)
    for chain in found:
        if not chain.scales or (chain.clips and not tolerance):
            chain.most = 1.0  # whatever becomes smaller becomes something else
    joined = list(_runs(found))
    before = _size(joined)
    for run in joined:
        grain = math.gcd(len(run.copies), multiple)
        _plan(run, round(share * len(run.copies) / grain) * grain)
        _fill(run, grain)
        _apply(run, bits)
    more = sum(int(run.copies.sum()) - len(run.copies) for run in joined)
    grown = 100 * (_size(joined) / before - 1) if before else 0.0
    log.warning(
        "split: %d channels more, %.1f %% more weights and work in the layers around them",
        more,
        grown,
    )
    return model


def _runs(found: list[Chain]) -> Iterator[Run]:
    """What of the chains can be split: those whose channels nothing else depends on."""
    gives = {layer: chain for chain in found for layer in chain.producers}
    takes = {layer: chain for chain in found for layer in chain.consumers}
    left = list(found)
    while left:
        run = Run([], [], np.zeros(0, np.int64))
        reached = [left[0]]
        while reached:
            chain = reached.pop()
            if chain in left:
                left.remove(chain)
                run.chains.append(chain)
                linked = [
                    layer for layer in (*chain.producers, *chain.consumers) if layer.is_depthwise
                ]
                reached += [
                    other[layer] for layer in linked for other in (gives, takes) if layer in other
                ]
        run.links = [
            (x, takes[x], gives[x])
            for x in run.layers
            if x.is_depthwise and x in takes and x in gives
        ]
        linking = {layer for layer, _, _ in run.links}
        whole = all(len(layer.weight) == 1 or layer in linking for layer in run.layers)
        single = all(
            not value.uses()
            for chain in run.chains
            for node in chain.passing
            for value in node.outputs[1:]
        )
        if whole and single and run.heads() and run.tails():
            channels = len(run.heads()[0][0].output_ranges())
            run.copies = np.ones(channels, np.int64)
            run.parts = {chain: np.ones(channels) for chain in run.chains}
            yield run


# ---- which channels


def _plan(run: Run, budget: int) -> None:
    """Spend the budget where a channel more narrows some layer's range most."""
    while budget:
        plans = [
            (*_best(ranges, run, carried, budget), carried) for ranges, carried in _candidates(run)
        ]
        gain, channels, carried = max(plans, key=lambda plan: plan[0])
        if gain < WORTH:
            return
        for channel in channels:
            count = run.copies[channel]
            run.copies[channel] += 1
            for chain in carried:
                run.parts[chain][channel] *= count / (count + 1)
        budget -= len(channels)


def _fill(run: Run, grain: int) -> None:
    """More copies, of what is largest behind, until their number is a multiple again."""
    layer, chain = run.tails()[0]
    while run.copies.sum() % grain:
        run.copies[np.argmax(layer.input_ranges() / (run.copies * run.parts[chain]))] += 1


def _candidates(run: Run) -> Iterator[tuple[Array, list[Chain]]]:
    """Each layer's ranges by channel as they are now, and the chains that carry less once its weights are split."""
    for layer, chain in run.tails():
        yield layer.input_ranges() / (run.copies * run.parts[chain]), []
    for layer, first, then in run.links:
        if first not in run.behind(then):  # a sum around the layer: both sides are one
            yield layer.output_ranges() * run.parts[then] / run.parts[first], run.behind(then)
    for layer, chain in run.heads():
        yield layer.output_ranges() * run.parts[chain], run.behind(chain)


def _best(ranges: Array, run: Run, carried: list[Chain], budget: int) -> tuple[float, list[int]]:
    """The channels to copy, one after the other, that narrow the range most by copy; and how much that is."""
    # what a channel would be with one copy
    copies = run.copies.copy()
    whole = ranges * run.copies
    room = np.full(ranges.shape, np.inf)
    for chain in carried:
        room = np.minimum(room, chain.most * run.parts[chain])
    best: tuple[float, list[int]] = (0.0, [])
    channels: list[int] = []
    while len(channels) < budget and ranges.any():
        channel = int(np.argmax(whole / copies))
        copies[channel] += 1
        if room[channel] < copies[channel] / run.copies[channel]:
            break
        channels.append(channel)
        gain = float(np.log(ranges.max() / max((whole / copies).max(), 1e-30))) / len(channels)
        if gain > best[0]:
            best = gain, list(channels)
    return best


# ---- splitting them


def _apply(run: Run, bits: int) -> None:
    if run.copies.sum() == len(run.copies):
        return
    kept = np.arange(len(run.copies))
    origin = np.concatenate([kept, np.repeat(kept, run.copies - 1)])
    parts = {chain: part[origin] for chain, part in run.parts.items()}
    for layer, chain in run.heads():
        layer.pick_outputs(origin, parts[chain])
    for layer, first, then in run.links:
        layer.pick_channels(origin, parts[then] / parts[first], parts[then])
    for layer, chain in run.tails():
        layer.pick_inputs(origin, 1 / (run.copies[origin] * parts[chain]))
        _stagger(layer, origin, bits)
    for layer in run.layers:
        layer.store()
    for chain in run.chains:
        _widen(chain, len(origin))


def _stagger(layer: Layer, origin: Array, bits: int) -> None:
    """Move the copies of a weight apart by fractions of a step that add up to nothing: what they round to then adds up
    to what the whole would (Hermite's identity; for two copies it is the paper's quantization-aware splitting)."""
    step = float(layer.input_ranges().max()) / (2 ** (bits - 1) - 1)
    for channel in np.flatnonzero(np.bincount(origin) > 1):
        copies = np.flatnonzero(origin == channel)
        fractions = (np.arange(len(copies)) - (len(copies) - 1) / 2) / len(copies)
        layer.weight[:, :, copies] += step * fractions[:, np.newaxis]


def _widen(chain: Chain, count: int) -> None:
    """Tell the tensors of the chain how many channels they have."""
    for value in chain.tensors:
        if value.shape is not None and len(value.shape) > 1:
            value.shape = ir.Shape(
                [count if axis == 1 else size for axis, size in enumerate(value.shape)]
            )
    for node in chain.passing:
        if node.op_type == "Reshape" and constant(node.inputs[1]) is not None:
            rank = len(node.outputs[0].shape or (1, count))
            replace_constant(
                node, 1, np.array([-1 if axis == 1 else 1 for axis in range(rank)], np.int64)
            )


def _size(joined: list[Run]) -> int:
    return sum(layer.weight.size for layer in {layer for run in joined for layer in run.layers})
