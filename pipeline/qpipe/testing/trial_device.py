"""A device to try stages and drivers on, and what is sent to it: a build and samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.engine.targets import platform_of
from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.samples.store import Samples
from qpipe.stages.options import options
from qpipe.stages.registry import Registry, Stage
from qpipe.testing.checks import NotApplicableError, Subject, require
from qpipe.testing.trial_chain import TrialChain, no_progress
from qpipe.types import Array, Build, Capabilities, Device, Platform, Stored

NAME = "trial"
FOLDER = "folder"
RUNS_NOTHING = "null"  # the system of a device that runs nothing
NAME_OF_RUNTIME = "onnxruntime"
SMALLEST_SQNR_DB = 40.0  # of a float network in another precision: 16 bits give over 45
SAMPLE_COUNT = 3


@contextmanager
def open_trial_device(subject: Subject, folder: Path) -> Iterator[Device]:
    """Open the device of a driver under test.

    A driver whose option `folder` is a path of this machine gets an empty one, unless it is given:
    checks clean the device.
    """
    more_options: dict[str, Any] = {}
    folder_option = options(subject.stage.function).get(FOLDER)
    if folder_option is not None and "path" in folder_option.describe().split():
        more_options[FOLDER] = subject.options.get(FOLDER, folder / "device")
    with _closed_at_the_end(subject.stage, **subject.call(**more_options).resolved()) as device:
        yield device


@contextmanager
def open_local_device(plugins: Registry, folder: Path) -> Iterator[Device]:
    """Open this machine as a device, with a folder of its own."""
    driver = plugins.device("local")
    lock = str(folder / "lock")
    with _closed_at_the_end(driver, folder=folder / "device", lock=lock) as device:
        yield device


@contextmanager
def open_null_device(plugins: Registry) -> Iterator[Device]:
    """Open a device that runs nothing: outputs are zeros, each inference takes 1 ms."""
    with _closed_at_the_end(plugins.device("null")) as device:
        yield device


@contextmanager
def _closed_at_the_end(driver: Stage, **driver_options: Any) -> Iterator[Device]:
    device: Device = driver.function(NAME, **driver_options)
    try:
        yield device
    finally:
        device.close()


def require_running(device: Device, runtime: str = NAME_OF_RUNTIME) -> Capabilities:
    """Return the capabilities of a device; raise NotApplicableError where it runs no such build."""
    capabilities = device.capabilities()
    if capabilities.system == RUNS_NOTHING:
        raise NotApplicableError("it runs nothing")
    if runtime and runtime not in capabilities.runtimes:
        raise NotApplicableError(f"it has no {runtime}; install it there")
    return capabilities


def float_build(chain: TrialChain, capabilities: Capabilities | None = None) -> Build:
    """Return the build of the float network for the ONNX Runtime of a device."""
    platform: Platform = platform_of(capabilities, NAME_OF_RUNTIME)
    return chain.compile(platform=platform)


def deploy(plugins: Registry, build: Build, device: Device) -> Stored:
    """Deploy a build as a recipe does by default."""
    stored: Stored = plugins.stage("deploy", "copy").function(build, device, no_progress)
    return stored


def require_outputs(
    device: Device, build: Stored, stored_samples: Stored, model: ir.Model, samples: Samples
) -> float:
    """Require what ONNX Runtime makes of the network here; return the SQNR of the worst output."""
    session = open_session(model, optimize=False)
    worst = np.inf
    outputs = list(device.infer(build, stored_samples, SAMPLE_COUNT))
    require(len(outputs) == SAMPLE_COUNT, f"infer gives {len(outputs)} of {SAMPLE_COUNT} outputs")
    for index, arrays in enumerate(outputs):
        expected = infer(session, samples.feeds(index, input_shapes(session)))
        require(arrays.keys() == expected.keys(), f"outputs are {', '.join(arrays) or 'none'}")
        for name, reference in expected.items():
            worst = min(worst, _sqnr(name, reference, arrays[name]))
    return float(worst)


def _sqnr(name: str, reference: Array, output: Array) -> float:
    require(output.shape == reference.shape, f"output '{name}' is {list(output.shape)}")
    noise = float(np.square(output - reference, dtype=np.float64).sum())
    sqnr = np.inf
    if noise:
        sqnr = 10 * np.log10(float(np.square(reference, dtype=np.float64).sum()) / noise)
    problem = f"output '{name}' is not that of the network: SQNR {sqnr:.1f} dB"
    require(sqnr >= SMALLEST_SQNR_DB, problem)
    return float(sqnr)
