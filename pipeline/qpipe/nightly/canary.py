"""The canary: a network of fixed bytes that every device runs every night, before all else.

Neither recipes nor quantizers have a part in it: where it moves, the board or its runtime did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from qpipe.types import Build, Capabilities, Device, Round, Stored

FILES = Path(__file__).with_name("canary_files")
NETWORK = FILES / "network"
SAMPLES = FILES / "samples"
RUNTIME = str(Build.read(NETWORK).manifest["runtime"])
ROUNDS = 7
VALUES = 40
WARMUP_S = 0.1
ROUND_S = 2.0
TOLERANCE = 1e-3  # of outputs: kernels of float networks differ by less


@dataclass(frozen=True)
class CanaryResult:
    """What the canary took on a device."""

    value: float | None  # ms, the median of the medians of its rounds
    problem: str = ""  # why the number does not count
    environment: Mapping[str, Any] = field(default_factory=dict)  # before the first round


def has_runtime(capabilities: Capabilities) -> bool:
    """Return whether a device can run the canary."""
    return RUNTIME in capabilities.runtimes


def measure_canary(device: Device) -> CanaryResult:
    """Run the canary on a device that this process has to itself."""
    build = device.store(NETWORK, _ignore_progress)
    samples = device.store(SAMPLES, _ignore_progress)
    wrong = _wrong_output(device, build, samples)
    if wrong:
        return CanaryResult(None, wrong)
    rounds = [_round(device, build, samples) for _ in range(ROUNDS)]
    counted = [timed for timed in rounds if not timed.invalid]
    problem = ""
    if not counted:
        problem = f"all {ROUNDS} rounds were disturbed: {rounds[-1].invalid}"
    value = median(median(timed.values_ms) for timed in counted or rounds)
    environment = dict(rounds[0].environment.get("before", {}))
    return CanaryResult(value, problem, environment)


def _round(device: Device, build: Stored, samples: Stored) -> Round:
    return device.round(build, samples, warmup_s=WARMUP_S, values=VALUES, budget_s=ROUND_S)


def _wrong_output(device: Device, build: Stored, samples: Stored) -> str:
    """Return in words that the canary's outputs are wrong; "" where they are right."""
    expected = np.asarray(json.loads((FILES / "outputs.json").read_text(encoding="utf-8")))
    (outputs,) = list(device.infer(build, samples, 1))
    (values,) = outputs.values()
    difference = float(np.max(np.abs(values.ravel() - expected)))
    if difference <= TOLERANCE:
        return ""
    return f"the canary's outputs are wrong by up to {difference:.3g}"


def _ignore_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Ignore the progress of files of 100 kB."""
