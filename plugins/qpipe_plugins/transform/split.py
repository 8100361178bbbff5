"""Outlier channel splitting: channels with large weights become several; the function stays."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant, replace_constant
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Bits, Count, Share
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import CHANNELWISE, Chain, Layer, find_chains
from qpipe_plugins.transform.scaling_limits import limit_factors

# one more channel must narrow the range of a layer by this part (natural logarithm)
MIN_GAIN = 0.01
TINY = 1e-30  # instead of the logarithm of zero
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """A depthwise layer between two chains, which have the same channels because of it."""

    layer: Layer
    before: Chain
    after: Chain


@dataclass(eq=False)
class LinkedChains:
    """Chains in a row, linked by depthwise layers: all have the same channels.

    Each channel has one or more copies, all alike. In each chain the copies carry a part of what
    the channel was; layers behind the chains add up what all copies carry.
    """

    chains: list[Chain]
    links: list[Link] = field(default_factory=list)
    copies: Array = field(default_factory=lambda: np.zeros(0, np.int64))  # int64 [C]
    parts: dict[Chain, Array] = field(default_factory=dict)  # [C] by chain

    @property
    def layers(self) -> list[Layer]:
        """All layers around and between the chains, each once."""
        return list(dict.fromkeys(layer for chain in self.chains for layer in chain.layers))

    def heads(self) -> list[tuple[Layer, Chain]]:
        """Return the layers before the chains, each with the chain that it writes."""
        return [
            (layer, chain)
            for chain in self.chains
            for layer in chain.producers
            if not layer.is_depthwise
        ]

    def tails(self) -> list[tuple[Layer, Chain]]:
        """Return the layers behind the chains, each with the chain that it reads."""
        return [
            (layer, chain)
            for chain in self.chains
            for layer in chain.consumers
            if not layer.is_depthwise
        ]

    def derived_chains(self, chain: Chain) -> list[Chain]:
        """Return the chain and those that are computed from it."""
        derived = [chain]
        for current in derived:  # grows meanwhile
            for link in self.links:
                if link.before is current and link.after not in derived:
                    derived.append(link.after)
        return derived

    def added_channels(self) -> int:
        """Return the number of copies beyond the first of each channel."""
        return int(self.copies.sum()) - len(self.copies)


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
    """Split channels with outlying weights into several, so that a scale per tensor is finer.

    Outlier channel splitting (Zhao et al. 2019, arXiv 1901.09504); the function stays. It adds
    about a part `share` of the channels between layers, which costs time and size in proportion
    (logged). Where the number of channels is a `multiple`, or has a common divisor with it, it
    stays one: kernels are made for that, and take half as long again for odd numbers. The parts of
    a weight behind an activation differ by fractions of a step of `bits`, so that together they
    round as the whole did. Weights before a ReLU6 are split only with a `tolerance`, on channels
    where values that then pass the bound cost at most that part of the tensor's mean power on the
    samples. For weights with one scale per tensor; where equalize works it does more, at no cost.
    Takes seconds.
    """
    chains = find_chains(model.graph, CHANNELWISE)
    if tolerance:
        limit_factors(
            model,
            chains,
            calibration_samples,
            count=samples,
            tolerance=tolerance,
            progress=progress,
        )
    for chain in chains:
        if not chain.scales or (chain.clips and not tolerance):
            chain.most = 1.0  # whatever becomes smaller becomes something else
    linked_chains = list(_linked_chains(chains))
    size_before = _weight_count(linked_chains)
    for linked in linked_chains:
        grain = math.gcd(len(linked.copies), multiple)
        budget = round(share * len(linked.copies) / grain) * grain
        _choose_copies(linked, budget)
        _fill_up(linked, grain)
        _apply(linked, bits)
    added = sum(linked.added_channels() for linked in linked_chains)
    growth = 0.0
    if size_before:
        growth = _weight_count(linked_chains) / size_before - 1
    log.warning(
        "split: channels added: %d; %.1f %% more weights and work in the layers around them",
        added,
        100 * growth,
    )
    return model


def _weight_count(linked_chains: list[LinkedChains]) -> int:
    layers = {layer for linked in linked_chains for layer in linked.layers}
    return sum(layer.weight.size for layer in layers)


# ---- what can be split


def _linked_chains(chains: list[Chain]) -> Iterator[LinkedChains]:
    """Yield the chains that can be split: those whose channels nothing else depends on."""
    written = {layer: chain for chain in chains for layer in chain.producers}
    read = {layer: chain for chain in chains for layer in chain.consumers}
    remaining = list(chains)
    while remaining:
        linked = LinkedChains(_connected_chains(remaining[0], written, read))
        remaining = [chain for chain in remaining if chain not in linked.chains]
        for layer in linked.layers:
            if layer.is_depthwise and layer in read and layer in written:
                linked.links.append(Link(layer, before=read[layer], after=written[layer]))
        if _can_be_split(linked):
            first_head, _ = linked.heads()[0]
            channels = len(first_head.output_ranges())
            linked.copies = np.ones(channels, np.int64)
            linked.parts = {chain: np.ones(channels) for chain in linked.chains}
            yield linked


def _connected_chains(
    start: Chain, written: Mapping[Layer, Chain], read: Mapping[Layer, Chain]
) -> list[Chain]:
    """Return the chain and all that depthwise layers connect it to."""
    connected: list[Chain] = []
    waiting = [start]
    while waiting:
        chain = waiting.pop()
        if chain in connected:
            continue
        connected.append(chain)
        for layer in chain.layers:
            if layer.is_depthwise:
                waiting += [by_layer[layer] for by_layer in (written, read) if layer in by_layer]
    return connected


def _can_be_split(linked: LinkedChains) -> bool:
    linking_layers = {link.layer for link in linked.links}
    for layer in linked.layers:
        if len(layer.weight) > 1 and layer not in linking_layers:
            return False
    for chain in linked.chains:
        for node in chain.passing:
            if any(value.uses() for value in node.outputs[1:]):
                return False
    return bool(linked.heads()) and bool(linked.tails())


# ---- which channels


@dataclass(frozen=True)
class Candidate:
    """A layer whose range may be narrowed: its ranges by channel [C] as they are now, and the
    chains that carry less once its weights are split.
    """

    ranges: Array
    carrying: list[Chain]


@dataclass(frozen=True)
class Choice:
    """Channels to copy, one after the other, and the gain per copy: the logarithm of the range
    before over the range afterwards.
    """

    gain: float = 0.0
    channels: list[int] = field(default_factory=list)


def _choose_copies(linked: LinkedChains, budget: int) -> None:
    """Spend the budget where one more channel narrows the range of some layer most."""
    while budget:
        candidates = list(_candidates(linked))
        choices = [_best_choice(candidate, linked, budget) for candidate in candidates]
        best = max(range(len(choices)), key=lambda index: choices[index].gain)
        if choices[best].gain < MIN_GAIN:
            return
        for channel in choices[best].channels:
            count = linked.copies[channel]
            linked.copies[channel] += 1
            for chain in candidates[best].carrying:
                linked.parts[chain][channel] *= count / (count + 1)
        budget -= len(choices[best].channels)


def _fill_up(linked: LinkedChains, grain: int) -> None:
    """Copy the channels that are largest behind the chains until their number is a multiple."""
    layer, chain = linked.tails()[0]
    while linked.copies.sum() % grain:
        ranges = layer.input_ranges() / (linked.copies * linked.parts[chain])
        linked.copies[np.argmax(ranges)] += 1


def _candidates(linked: LinkedChains) -> Iterator[Candidate]:
    parts = linked.parts
    for layer, chain in linked.tails():
        yield Candidate(layer.input_ranges() / (linked.copies * parts[chain]), [])
    for link in linked.links:
        derived = linked.derived_chains(link.after)
        if link.before in derived:
            continue  # a sum around the layer: both sides are one
        ranges = link.layer.output_ranges() * parts[link.after] / parts[link.before]
        yield Candidate(ranges, derived)
    for layer, chain in linked.heads():
        yield Candidate(layer.output_ranges() * parts[chain], linked.derived_chains(chain))


def _best_choice(candidate: Candidate, linked: LinkedChains, budget: int) -> Choice:
    """Return the channels to copy that narrow the range of a candidate most per copy."""
    ranges = candidate.ranges
    copies = linked.copies.copy()
    undivided = ranges * linked.copies  # the ranges that each channel would have with one copy
    max_growth = np.full(ranges.shape, np.inf)
    for chain in candidate.carrying:
        max_growth = np.minimum(max_growth, chain.most * linked.parts[chain])
    best = Choice()
    channels: list[int] = []
    while len(channels) < budget and ranges.any():
        channel = int(np.argmax(undivided / copies))
        copies[channel] += 1
        if max_growth[channel] < copies[channel] / linked.copies[channel]:
            break
        channels.append(channel)
        new_range = max((undivided / copies).max(), TINY)
        gain = float(np.log(ranges.max() / new_range)) / len(channels)
        if gain > best.gain:
            best = Choice(gain, list(channels))
    return best


# ---- splitting them


def _apply(linked: LinkedChains, bits: int) -> None:
    """Give the layers and tensors the copies that were chosen."""
    if not linked.added_channels():
        return
    first_copies = np.arange(len(linked.copies))
    more_copies = np.repeat(first_copies, linked.copies - 1)
    origin = np.concatenate([first_copies, more_copies])
    parts = {chain: part[origin] for chain, part in linked.parts.items()}
    for layer, chain in linked.heads():
        layer.pick_outputs(origin, parts[chain])
    for link in linked.links:
        factors = parts[link.after] / parts[link.before]
        link.layer.pick_channels(origin, factors=factors, output_factors=parts[link.after])
    for layer, chain in linked.tails():
        layer.pick_inputs(origin, 1 / (linked.copies[origin] * parts[chain]))
        _stagger(layer, origin, bits)
    for layer in linked.layers:
        layer.store()
    for chain in linked.chains:
        _widen(chain, len(origin))


def _stagger(layer: Layer, origin: Array, bits: int) -> None:
    """Move the copies of a weight apart by fractions of a step that add up to nothing.

    What they round to then adds up to what the whole would (Hermite's identity; for two copies it
    is the paper's quantization-aware splitting).
    """
    step = float(layer.input_ranges().max()) / (2 ** (bits - 1) - 1)
    for channel in np.flatnonzero(np.bincount(origin) > 1):
        copies = np.flatnonzero(origin == channel)
        count = len(copies)
        fractions = (np.arange(count) - (count - 1) / 2) / count
        layer.weight[:, :, copies] += step * fractions[:, np.newaxis]


def _widen(chain: Chain, channels: int) -> None:
    """Set the number of channels in the shapes of the chain's tensors and in its Reshapes."""
    for value in chain.tensors:
        if value.shape is not None and len(value.shape) > 1:
            sizes = list(value.shape)
            sizes[1] = channels
            value.shape = ir.Shape(sizes)
    for node in chain.passing:
        if node.op_type == "Reshape" and constant(node.inputs[1]) is not None:
            shape = node.outputs[0].shape
            rank = 2 if shape is None else len(shape)
            new_shape = np.ones(rank, np.int64)
            new_shape[1] = -1
            replace_constant(node, 1, new_shape)
