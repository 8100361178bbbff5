"""What quantizing one layer alone costs the network's outputs, for each number of bits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from qpipe.quant import qdq
from qpipe.quant.sensitivity import Probe, Substitution, layer_name
from qpipe.types import Progress

FLOAT_BITS = 32  # of a layer that is not quantized

# for each number of bits the quantized weights by name, in a network with corrected biases
QuantizedWeights = Mapping[int, Mapping[str, qdq.Weight]]


class DamageJournal:
    """A file of measured damages, one JSON line each, so that a killed run continues where it was.

    Each line is on the disk before the next measurement; an incomplete line is ignored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damages: dict[tuple[str, int], float] = {}
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                name, bits, damage = json.loads(line)
                self._damages[name, bits] = damage

    def get(self, name: str, bits: int) -> float | None:
        """Return the damage of a layer at a number of bits; None where it is not measured yet."""
        return self._damages.get((name, bits))

    def add(self, name: str, bits: int, damage: float) -> None:
        """Record a damage."""
        self._damages[name, bits] = damage
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, bits, damage]) + "\n")


def measure_damages(
    names: Sequence[str],
    bit_widths: Sequence[int],
    quantized: QuantizedWeights,
    *,
    probe: Probe,
    journal: DamageJournal,
    progress: Progress,
) -> list[list[float]]:
    """Return for each layer, by the name of its weight, the damage at each of the ascending
    `bit_widths`: noise over signal of the network's outputs.

    More bits never cost more: where noise of the measurement says so, the damage of fewer bits
    holds.
    """
    damages = []
    for index, name in enumerate(names):
        progress(index, len(names), "layers measured")
        measured = []
        for bits in bit_widths:
            damage = 0.0
            if bits != FLOAT_BITS:
                damage = _damage(quantized[bits][name], bits, probe, journal)
            measured.append(damage)
        damages.append(list(itertools.accumulate(measured, min)))
    return damages


def _damage(weight: qdq.Weight, bits: int, probe: Probe, journal: DamageJournal) -> float:
    damage = journal.get(weight.name, bits)
    if damage is None:
        damage = probe.damage(_substitution(weight))
        journal.add(weight.name, bits, damage)
    return damage


def _substitution(weight: qdq.Weight) -> Substitution:
    """Return the substitution of one quantized weight and of the biases of its layers."""
    biases = {}
    for node in weight.nodes:
        bias = qdq.bias(node)
        if bias is not None:
            biases[layer_name(node)] = bias
    return Substitution({weight.name: weight.array}, biases)
