"""What to try first for a layer that loses accuracy; never what its scheme has already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qpipe.diagnose.range_fit import RangeFit
from qpipe.quant import qdq

if TYPE_CHECKING:
    from qpipe.recipe.stage_call import Call

# a channel of 8 times the median's range leaves the other channels three bits fewer
WIDE_SPREAD = 8.0
# share of values beyond the range; fewer are outliers that a range may leave out
NOTABLE_CLIPPING = 0.001
FEW_BITS = 7
EXCLUDE = "keep it float: exclude it"
FLOOR = "keep the few layers that carry the loss float by mixed: {bits: [8, 32], sqnr: 30}"


class Remedies:
    """The remedies that a scheme does not have yet."""

    def __init__(self, chain: Sequence[Call] = ()) -> None:
        self.present = {call.name for call in chain}
        for call in chain:
            self.present |= {f"{name}: {value}" for name, value in call.options.items()}

    def _absent(self, *remedies: str) -> str:
        """Return those that the scheme lacks, as alternatives; empty where it has all."""
        return " or ".join(remedy for remedy in remedies if remedy not in self.present)

    def _floor(self) -> str:
        """Return what keeps the few layers float that carry the loss; empty where it is there."""
        return "" if "mixed" in self.present else FLOOR

    def for_activations(self, fit: RangeFit | None, *, carries_loss: bool = False) -> str:
        """Return what helps the range of a tensor that a layer reads."""
        floor = self._floor() if carries_loss else ""
        if fit is None:
            return floor or EXCLUDE
        tensor = fit.tensor
        if fit.clipped > NOTABLE_CLIPPING:
            fix = self._absent("activation_range: minmax")
            reason = f"the range of '{tensor}' clips {100 * fit.clipped:.2g} %"
            return f"{reason}: use {fix}" if fix else f"{reason}: {EXCLUDE}"
        if fit.channel_spread > WIDE_SPREAD:
            others = [self._absent("equalize"), floor or self._absent("activation_range: mse")]
            fix = " or ".join(filter(None, others))
            reason = f"channels of '{tensor}' differ {fit.channel_spread:.0f}x"
            return f"{reason}: {fix or EXCLUDE}"
        fix = self._absent("activation_range: mse", "activation_range: percentile")
        use = f"use {fix}, or exclude the layer" if fix else EXCLUDE
        return f"'{tensor}' is rounded coarsely: {floor or use}"

    def for_weight(self, weight: qdq.Weight, spread: float, *, carries_loss: bool = False) -> str:
        """Return what helps a weight whose float channels differ by this factor."""
        quantized = weight.quantized
        assert quantized is not None
        bits = quantized.codebook.bits
        if quantized.axis is None and spread > WIDE_SPREAD:
            fix = self._absent("equalize")
            equalize = ", or equalize before it" if fix else ""
            return f"channels differ {spread:.0f}x: use granularity channel{equalize}"
        if bits < FEW_BITS:
            return self._for_few_bits(weight, bits)
        if carries_loss and self._floor():
            return FLOOR
        if "compensate" in self.present:
            return EXCLUDE
        return "round it better: compensate after it is quantized; or keep it float: exclude it"

    def _for_few_bits(self, weight: qdq.Weight, bits: int) -> str:
        is_depthwise = weight.kind == "depthwise"
        subject = f"{bits}-bit depthwise" if is_depthwise else f"{bits} bits are few for it"
        give_more = "give it 8 bits" if is_depthwise else "give it more"
        places = self._absent("mixed")
        if is_depthwise and "logarithmic" in self.present:
            places = "; ".join(filter(None, (places, "of logarithmic, bits_depthwise: 8")))
        fixes = [f"{give_more} ({places})" if places else "", self._absent("compensate")]
        return f"{subject}: {', or '.join(filter(None, fixes)) or EXCLUDE}"
