"""What the stages that train ask for before they begin: torch, and samples."""

from __future__ import annotations

import importlib.util
from typing import Literal

from qpipe.errors import StageError
from qpipe.samples.store import Samples

Change = Literal["flip", "crop", "color", "shift", "noise", "mix"]  # of samples, in augmentation

TRAINING_MODULES = {"torch": "pip install 'qpipe-edge[train]'"}
FEWEST_SAMPLES = 4
HOLD_OUT_EVERY = 10  # one sample in so many, as long as these are no more than MOST_HELD_OUT
MOST_HELD_OUT = 64


def require_torch(where: str) -> None:
    """Raise StageError, which begins with `where`, where torch is not installed."""
    for module, install in TRAINING_MODULES.items():
        if importlib.util.find_spec(module) is None:
            raise StageError(
                f"{where}: {module} is not installed; {install}", failure="configuration"
            )


def check_samples(calibration_samples: Samples, samples: int | None, where: str) -> None:
    """Raise StageError where there are too few samples to train on some and score on others."""
    count = used_samples(calibration_samples, samples)
    if count < FEWEST_SAMPLES:
        raise StageError(
            f"{where}: {count} samples are too few to train on some and score on others; "
            f"give at least {FEWEST_SAMPLES}, better hundreds, to calibrate with"
        )


def used_samples(calibration_samples: Samples, samples: int | None) -> int:
    """Return how many samples are used."""
    total = len(calibration_samples)
    return total if samples is None else min(samples, total)


def held_out_indices(count: int) -> list[int]:
    """Return which of `count` samples are scored, evenly spread; the others are trained on."""
    step = max(HOLD_OUT_EVERY, -(-count // MOST_HELD_OUT))
    return list(range(min(step, count) // 2, count, step))
