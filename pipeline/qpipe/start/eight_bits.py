"""A first look at what 8 bits cost a network, and which of its layers will not bear them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from qpipe.engine import cache_keys, stage_results
from qpipe.engine.plan import Plan, Step
from qpipe.engine.quick_int8 import (
    Int8Time,
    measure_int8_time,
    plain_scheme,
    quantize_quickly,
    silence,
)
from qpipe.errors import StageError
from qpipe.quant.layer_parts import Part, find_damaging, origins, read_parts, union
from qpipe.quant.sensitivity import BOUND_DB, Probe, decibels
from qpipe.recipe.recipe import Recipe
from qpipe.samples.selection import take_evenly
from qpipe.samples.store import Samples
from qpipe.storage.cache import Cache

KIND = "eight_bits"  # of the entries in the cache that keep it
FILE_NAME = "eight_bits.json"
SCHEME = "int8-channel"  # whose quantizer is tried
# dB of the outputs: with less, rounding better is no cure; and what a layer to blame leaves alone
BEARABLE = 12.0
BEARABLE_ALONE = 20.0
FLOOR = 30  # dB, of a scheme that keeps what is worse float
CALIBRATED = 8  # samples
MEASURED = 4
MOST_MEASUREMENTS = 64
SECONDS = 20.0  # for these
MOST_NAMED = 5  # layers


@dataclass(frozen=True)
class LayerDamage:
    """The SQNR of the network's outputs, in dB, with one layer alone at 8 bits."""

    layer: str
    operator: str
    sqnr: float

    def __str__(self) -> str:
        loss = f"{self.sqnr:.1f} dB alone" if self.sqnr > -BOUND_DB else "alone no number is left"
        return f"{self.operator} '{self.layer}' ({loss})"


@dataclass(frozen=True)
class EightBits:
    """The SQNR of the outputs, in dB, at 8 bits, and the layers that are to blame, worst first."""

    samples: int
    sqnr: float
    time: Int8Time | None = None
    damaged: Sequence[LayerDamage] = ()

    @property
    def is_bearable(self) -> bool:
        """Whether the outputs are near those of float."""
        return self.sqnr >= BEARABLE

    def __str__(self) -> str:
        text = f"outputs at {self.sqnr:.1f} dB of float's on {self.samples} samples"
        if self.is_bearable:
            return text
        if not self.damaged:
            return f"{text}, lost by many layers together"
        named = ", ".join(map(str, self.damaged[:MOST_NAMED]))
        others = len(self.damaged) - MOST_NAMED
        return f"{text}, lost by {named}" + (f" and {others} others" if others > 0 else "")


def try_eight_bits(recipe: Recipe, model: ir.Model, samples: Samples) -> EightBits | None:
    """Quantize a network with a recipe's plain scheme, and measure it on a few of its samples.

    None where it cannot be: what is wrong is then told by a run.
    """
    try:
        with silence():
            return _measure(recipe, model, samples)
    except StageError:
        return None


def _measure(recipe: Recipe, model: ir.Model, samples: Samples) -> EightBits | None:
    quantized = quantize_quickly(recipe, SCHEME, model, samples, CALIBRATED)
    eight_bits = measure_eight_bits(quantized, model, samples)
    if eight_bits is None:
        return None
    time_needed = measure_int8_time(recipe, SCHEME, model, quantized, samples)
    return replace(eight_bits, time=time_needed)


def planned_eight_bits(plan: Plan, model: str, cache: Cache) -> EightBits | None:
    """Return what 8 bits cost a network of a plan; None where it is not calibrated yet.

    It is the network that the first plain scheme makes. The cache keeps the answer.
    """
    network = plan.steps[plan.imported[model]]
    samples = plan.steps[plan.samples[model]]
    scheme = plain_scheme(plan.recipe)
    statistics = _calibration(plan, network, cache)
    if scheme is None or statistics is None:
        return None
    call = plan.recipe.schemes[scheme][0]
    key = cache_keys.key(
        {
            **cache_keys.of_engine(KIND),
            **cache_keys.of_host(),
            "scheme": cache_keys.of_call(call),
            "statistics": statistics.key,
            "samples": samples.key,
        }
    )
    folder = cache.get(KIND, key)
    if folder is not None:
        return _read(folder / FILE_NAME)
    float_network = stage_results.read("import", network.result_folder(cache))
    parts = stage_results.read("samples", samples.result_folder(cache))
    ranges = stage_results.read("calibrate", statistics.result_folder(cache))
    try:
        with silence():
            copy = ir.from_proto(ir.to_proto(float_network))
            quantized = call.stage.function(copy, ranges, **call.resolved())
            eight_bits = measure_eight_bits(quantized, float_network, parts["calibration"])
    except Exception:  # noqa: BLE001  (foreign code: whatever a stage raises, a run tells)
        return None
    with cache.put(KIND, key) as out:
        fields = asdict(eight_bits) if eight_bits is not None else None
        (out / FILE_NAME).write_text(json.dumps(fields), encoding="utf-8")
    return eight_bits


def _calibration(plan: Plan, network: Step, cache: Cache) -> Step | None:
    """Return the step that calibrated a network as it was imported, if its result is there."""
    for step in plan.steps.values():
        if step.kind == "calibrate" and step.needs.get("model") == network.id:
            return step if cache.has(step.kind, step.key) else None
    return None


def _read(file: Path) -> EightBits | None:
    fields = json.loads(file.read_text(encoding="utf-8"))
    if fields is None:
        return None
    damaged = [LayerDamage(**layer) for layer in fields["damaged"]]
    return EightBits(fields["samples"], fields["sqnr"], damaged=damaged)


def measure_eight_bits(quantized: ir.Model, model: ir.Model, samples: Samples) -> EightBits | None:
    """Measure a quantized network on a few samples; None where nothing of it is quantized."""
    float_origins = origins(quantized, model)
    indices = take_evenly(range(len(samples)), MEASURED)
    probe = Probe(quantized, float_origins, samples, indices, threads=0)
    parts = read_parts(quantized, float_origins, probe)
    if not parts:
        return None
    start = time.monotonic()
    damage = probe.damage(union([part.both for part in parts]))
    seconds = time.monotonic() - start
    total = EightBits(len(indices), decibels(damage))
    if total.is_bearable:
        return total
    most = min(MOST_MEASUREMENTS, int(SECONDS / max(seconds, 1e-3)))
    damaging = find_damaging(probe, parts, 10 ** (-BEARABLE_ALONE / 10), most)
    layers = [_layer_damage(part, damage) for part, damage in damaging]
    return replace(total, damaged=layers)


def _layer_damage(part: Part, damage: float) -> LayerDamage:
    return LayerDamage(part.name, part.node.op_type, decibels(damage))
