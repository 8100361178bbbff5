"""How far the outputs of the student are from the teacher's, by what they hold.

Numbers: the power of the difference over that of the teacher's, as in `relative_noise`.

Scores of classes, which are logits along the last axis: the Kullback-Leibler divergence of the
student's probabilities from the teacher's (Hinton et al. 2015, arXiv 1503.02531), over what the
teacher tells. At one place that is the divergence of its probabilities from those of all places
together: much where there is an object, next to nothing where there is background as usual. Other
outputs with the same places, such as the boxes of a detector, count there by as much: where nothing
is seen, a box means nothing (of regions in distillation: Wang et al. 2019, arXiv 1906.03609).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from qpipe.errors import StageError
from qpipe.quant.in_torch.operator_table import Tensor

TINY = 1e-12  # power of a tensor that is all zeros
EXACT = 1e-4  # noise over signal, 40 dB, beyond which less and less is to be gained
RAREST = 1e-6  # probability of a class that the teacher never sees

Outputs = Mapping[str, Tensor]
Distances = dict[str, tuple[Tensor, Tensor]]  # the noise and the signal of each output


class OutputDistance:
    """Compares outputs by name; `classes` are those that hold scores of classes.

    Raise StageError, which begins with `where`, for a name that no output has.
    """

    def __init__(self, names: Sequence[str], classes: Sequence[str], where: str) -> None:
        for name in classes:
            if name not in names:
                raise StageError(
                    f"{where}: classes has '{name}', which is no output of floats; "
                    f"there is {', '.join(names)}"
                )
        self._names = names
        self._classes = classes
        self._frequencies: dict[str, Tensor] = {}

    def learn_frequencies(self, batches: Iterable[Outputs]) -> None:
        """Learn how frequent each class is, from outputs of the teacher."""
        if not self._classes:
            return
        totals: dict[str, list[Tensor]] = {name: [] for name in self._classes}
        for outputs in batches:
            for name, means in totals.items():
                means.append(outputs[name].softmax(-1).flatten(0, -2).mean(0))
        for name, means in totals.items():
            self._frequencies[name] = torch.stack(means).mean(0).clamp(min=RAREST)

    def of(self, expected: Outputs, actual: Outputs) -> Distances:
        """Return the noise and the signal of each output that is there."""
        information = {
            name: self._information(name, expected[name])
            for name in self._classes
            if name in expected
        }
        distances: Distances = {}
        for name in self._names:
            if name not in expected:
                continue
            if name in information:
                noise = _divergence(expected[name], actual[name].log_softmax(-1)).sum()
                distances[name] = (noise, information[name].sum())
                continue
            noise = (actual[name] - expected[name]).square()
            signal = expected[name].square()
            for weights in information.values():
                if weights.shape == signal.shape[:-1]:
                    noise = noise * weights[..., None]
                    signal = signal * weights[..., None]
                    break
            distances[name] = (noise.sum(), signal.sum())
        return distances

    def loss(self, expected: Outputs, actual: Outputs) -> Tensor:
        """Return the mean over outputs of the logarithm of the noise over the signal.

        So each output counts alike, however far from the teacher it is, but for what is next to
        exact.
        """
        ratios = [noise / (signal + TINY) for noise, signal in self.of(expected, actual).values()]
        return (torch.stack(ratios) + EXACT).log().mean()

    def total(self, pairs: Iterable[tuple[Outputs, Outputs]]) -> float:
        """Return the geometric mean over outputs of the noise over the signal, summed over pairs.

        In dB that is the mean of the outputs' ratios.
        """
        noise = dict.fromkeys(self._names, 0.0)
        signal = dict.fromkeys(self._names, 0.0)
        with torch.no_grad():
            for expected, actual in pairs:
                for name, (noise_part, signal_part) in self.of(expected, actual).items():
                    noise[name] += noise_part.item()
                    signal[name] += signal_part.item()
        ratios = [noise[name] / power for name, power in signal.items() if power > 0]
        if not ratios or not all(ratios):
            return 0.0
        if not all(math.isfinite(ratio) for ratio in ratios):
            return math.inf
        return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))

    def _information(self, name: str, expected: Tensor) -> Tensor:
        frequencies = self._frequencies[name].to(expected.device)
        return _divergence(expected, frequencies.log()).clamp(min=0)


def _divergence(logits: Tensor, log_probabilities: Tensor) -> Tensor:
    """Return at each place how far other probabilities are from those of logits."""
    own = logits.log_softmax(-1)
    return (own.exp() * (own - log_probabilities)).sum(-1)
