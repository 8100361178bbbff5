"""The raw values of a measurement: which of them count, and which pair up with another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Series = Sequence[tuple[int, float]]  # the number of a round or sample, and its value


def disturbed_rounds(conditions: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the rounds that do not count.

    None is returned where all were disturbed: they count then, and the number is in doubt.
    """
    disturbed = {number for number, round_ in enumerate(conditions) if round_.get("invalid")}
    return disturbed if len(disturbed) < len(conditions) else set()


def series_of_rounds(value: float, rounds: Mapping[int, Sequence[float]]) -> Series | None:
    """Return the medians of rounds; None where the value is not a centre of these rounds."""
    pooled = np.concatenate(list(rounds.values()))
    medians = [float(np.median(values)) for values in rounds.values()]
    # one value a round: that is the number itself, whatever a plugin makes of several rounds
    is_of_rounds = len(pooled) == len(rounds)
    # the centres that a plugin may take of its rounds
    centres = [np.median(pooled), np.median(medians), np.mean(medians)]
    if not is_of_rounds and not _is_any_of(value, centres):
        return None
    return list(zip(rounds, medians, strict=True))


def series_of_samples(value: float, rounds: Mapping[int, Sequence[float]]) -> Series | None:
    """Return the values of samples; None where the value is not their mean."""
    mean = np.mean(np.concatenate(list(rounds.values())))
    return series_of_resamples(rounds) if _is_any_of(value, [mean]) else None


def series_of_resamples(rounds: Mapping[int, Sequence[float]]) -> Series:
    """Return the values of the first list."""
    return list(enumerate(next(iter(rounds.values()))))


def _is_any_of(value: float, numbers: Sequence[float | np.floating]) -> bool:
    return any(math.isclose(float(number), value, rel_tol=1e-6, abs_tol=1e-9) for number in numbers)
