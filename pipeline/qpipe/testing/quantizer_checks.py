"""Checks of quantize stages: the bits that weights declare, and the error that these explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.qdq import QuantizedWeight, Weight
from qpipe.stages.options import options
from qpipe.testing.checks import NotApplicableError, Subject, require
from qpipe.testing.network_checks import Changed, change_network
from qpipe.testing.option_checks import candidate_values
from qpipe.types import Array

BITS = "bits"
NO_WEIGHTS = "it quantizes no weight"


def declared_bits_are_kept(subject: Subject, folder: Path) -> str:
    """Require codes that are levels of the codebook that the weight declares, 2^bits at most.

    Where the stage quantizes weights and has the option `bits`, it is also tried with its other
    values: no layer but the first, the last and depthwise ones declares more.
    """
    by_default = change_network(subject, folder / "default")
    seen = _bits_of(by_default)
    for bits in _other_bits(subject) if by_default.quantizes_weights else ():
        try:
            changed = change_network(subject, folder / f"bits-{bits}", bits=bits)
        except StageError:
            continue  # other options do not go with them
        _bits_of(changed)
        widest = max(_bits_of_inner_layers(changed), default=0)
        require(widest <= bits, f"with bits {bits}, a layer declares {widest} bits")
        seen.append(bits)
    return f"weights of {', '.join(map(str, sorted(set(seen))))} bits"


def error_is_bounded(subject: Subject, folder: Path) -> str:
    """Require that the weights of a layer differ from float by at most one step of their bits.

    The step is that of the largest weight divided among the levels of the codebook: the error of
    rounding each weight to one of the two levels around it. The difference is the root of the mean
    square over a channel.
    """
    changed = change_network(subject, folder)
    float_weights = {_place(weight): weight for weight in qdq.weights(changed.chain.float_model)}
    worst = 0.0
    compared = 0
    for weight in _quantized_weights(changed):
        original = float_weights.get(_place(weight))
        if original is None or original.array.shape != weight.array.shape:
            continue
        share = float(_error_in_steps(original, weight).max())
        problem = f"weights of '{weight.name}' differ from float by {share:.2f} of a step"
        require(share <= 1, f"{problem}, which their bits do not explain; at most 1 does")
        worst = max(worst, share)
        compared += 1
    if not compared:
        raise NotApplicableError("no quantized weight lies where a float one was")
    return f"{compared} layers, at most {worst:.2f} of a step"


def _other_bits(subject: Subject) -> list[int]:
    """Return values of the option `bits` but its default, where it is one whole number."""
    option = options(subject.stage.function).get(BITS)
    if option is None or not isinstance(option.default, int) or BITS in subject.options:
        return []
    values: list[Any] = [value for value in candidate_values(option) if isinstance(value, int)]
    return [value for value in values if value >= 4][:2]


def _quantized_weights(changed: Changed) -> list[Weight]:
    weights = [weight for weight in qdq.weights(changed.model) if weight.is_quantized]
    if not weights:
        raise NotApplicableError(NO_WEIGHTS)
    return weights


def _bits_of(changed: Changed) -> list[int]:
    """Return the bits that weights declare; require that their codes keep to them."""
    bits = []
    for weight in _quantized_weights(changed):
        quantized = weight.quantized
        assert quantized is not None
        codebook = quantized.codebook
        require(len(codebook.levels) <= 2**codebook.bits, f"'{weight.name}' has too many levels")
        _require_levels(weight.name, quantized)
        bits.append(codebook.bits)
    return bits


def _require_levels(name: str, quantized: QuantizedWeight) -> None:
    codebook = quantized.codebook
    codes = np.unique(quantized.codes)
    if quantized.codes.dtype == np.uint8:  # the same levels, shifted
        codes = codes.astype(np.int16) - 128
    problem = f"a code of '{name}' is no level of {codebook.name} with {codebook.bits} bits"
    require(bool(np.isin(codes, codebook.levels).all()), problem)


def _bits_of_inner_layers(changed: Changed) -> list[int]:
    weights = _quantized_weights(changed)
    inner = [weight for weight in weights[1:-1] if weight.kind != "depthwise"]
    return [weight.quantized.codebook.bits for weight in inner if weight.quantized is not None]


def _place(weight: Weight) -> str:
    """Return where a weight is: by its node, whose name quantizers keep."""
    return weight.node.name or weight.name


def _error_in_steps(original: Weight, weight: Weight) -> Array:
    """Return how far weights are from float, [C] or [1], in steps of their bits."""
    quantized = weight.quantized
    assert quantized is not None
    rows_of_error = weight.to_rows(weight.array - original.array)
    rows = original.to_rows(original.array)
    if quantized.axis is None:
        rows_of_error = rows_of_error.reshape(1, -1)
        rows = rows.reshape(1, -1)
    levels = np.array(quantized.codebook.levels, np.float64)
    step = np.abs(rows).max(axis=1) * np.diff(levels).max() / np.abs(levels).max()
    error = np.sqrt(np.square(rows_of_error, dtype=np.float64).mean(axis=1))
    steps: Array = error / np.maximum(step, np.finfo(np.float32).tiny)
    return steps
