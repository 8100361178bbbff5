"""Inputs that have one value in all calibration samples, so that calibration learns no range."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.samples.store import Samples
from qpipe.types import Sample


def constant_inputs(samples: Samples) -> dict[str, float]:
    """Return the value of each input of floats that has the same everywhere, by name.

    Samples are read only as long as some input has not varied.
    """
    values: dict[str, float] = {}
    for name, array in samples[0].inputs.items():
        if samples.preprocessing[name].dtype.startswith("float") and array.size:
            values[name] = float(array.flat[0])
    for sample in samples:
        values = _still_constant(values, sample)
        if not values:
            break
    return values


def _still_constant(values: dict[str, float], sample: Sample) -> dict[str, float]:
    return {name: value for name, value in values.items() if (sample.inputs[name] == value).all()}


def describe_constant_inputs(samples: Samples) -> Sequence[str]:
    """Return a sentence for each input that never varies."""
    fix = "calibrate on samples in which it varies"
    return [
        f"input '{name}' is {value:g} in all {len(samples)} calibration samples, so that nothing "
        f"tells its range; {fix}"
        for name, value in constant_inputs(samples).items()
    ]
