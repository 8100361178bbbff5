"""Checks of measure and deploy stages, on a device that runs nothing and takes 1 ms for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qpipe.engine import stage_results
from qpipe.engine.float_reference import float_outputs
from qpipe.errors import StageError
from qpipe.stages.options import needs
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.testing.trial_chain import TrialChain, no_progress
from qpipe.testing.trial_device import deploy, float_build, open_null_device
from qpipe.types import Deployed, Deployments, Device, Measurement

LABEL = "trial/float32/ort"  # model, scheme and build


def measurements_are_declared(subject: Subject, folder: Path) -> str:
    """Require measurements of the metrics that the stage registered, finite, in their intervals."""
    measurements = _measure(subject, folder)
    if not measurements:
        raise NotApplicableError("it measures nothing on a device that runs nothing")
    for measurement in measurements:
        name = measurement.metric
        is_declared = not subject.stage.gives or name in subject.stage.gives
        require(is_declared, f"it measures {name}, which `gives` does not list")
        require(math.isfinite(measurement.value), f"{name} is {measurement.value}")
        if measurement.low is not None and measurement.high is not None:
            is_within = measurement.low <= measurement.value <= measurement.high
            require(is_within, f"{name} is not within its interval")
    return ", ".join(sorted({measurement.metric for measurement in measurements}))


def what_is_cached_is_deterministic(subject: Subject, folder: Path) -> str:
    """Require the same measurements again, unless the stage is registered with cached=False."""
    if not subject.stage.cached:
        raise NotApplicableError("it is measured in every run: cached=False")
    first = _measure(subject, folder / "first")
    second = _measure(subject, folder / "second")
    require(first == second, "it measures other values the second time; register cached=False")
    return f"{len(first)} measurements"


def builds_are_stored(subject: Subject, folder: Path) -> str:
    """Require what `Device.store` gives, of the whole build."""
    with open_null_device(subject.plugins) as device:
        chain = TrialChain(subject.plugins, folder)
        build = float_build(chain)
        values = {"build": build, "device": device, "progress": no_progress}
        result = _call(subject, values)
    stored = stage_results.checked_result("deploy", result)
    size = sum(file.stat().st_size for file in build.files)
    require(stored.size == size, f"it stored {stored.size} bytes of {size}")
    return f"{stored.size} bytes"


def _measure(subject: Subject, folder: Path) -> Sequence[Measurement]:
    """Return what the stage measures of a float network; it may say that it cannot, here."""
    chain = TrialChain(subject.plugins, folder / "chain")
    with open_null_device(subject.plugins) as device:
        values = _values(subject, chain, device, folder)
        try:
            return stage_results.checked_measurements("measure", _call(subject, values))
        except StageError as error:
            if "\n" in str(error):
                raise NonconformityError("its failure has several lines") from error
            raise NotApplicableError(f"not on a device that runs nothing: {error}") from error


def _values(subject: Subject, chain: TrialChain, device: Device, folder: Path) -> Mapping[str, Any]:
    """Return what the engine passes to a measuring stage, by parameter."""
    build = float_build(chain)
    deployed = Deployed(LABEL, build, deploy(subject.plugins, build, device), is_float=True)
    stored_samples = device.store(chain.samples.folder, no_progress)
    is_fan_in = "deployments" in needs(subject.stage.function)
    return {
        "deployed": deployed,
        "deployments": Deployments([deployed]),
        "build": build,
        "device": device,
        "device_samples": {LABEL: stored_samples} if is_fan_in else stored_samples,
        "evaluation_samples": chain.samples,
        "float_outputs": list(float_outputs(chain.model, chain.samples)),
        "original": chain.model,
        "workdir": folder,
        "progress": no_progress,
    }


def _call(subject: Subject, values: Mapping[str, Any]) -> Any:
    """Call the stage with what it needs; raise NonconformityError where that is not there."""
    arguments = []
    for name in needs(subject.stage.function):
        if name not in values:
            problem = f"it needs '{name}', which no step gives; there is {', '.join(values)}"
            raise NonconformityError(problem)
        arguments.append(values[name])
    return subject.stage.function(*arguments, **subject.call().resolved())
