"""qpipe: which quantization scheme to ship on this board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qpipe import delayed_imports

if TYPE_CHECKING:
    from qpipe.api.finished_runs import ResultRow as ResultRow
    from qpipe.api.finished_runs import Results as Results
    from qpipe.api.finished_runs import Run as Run
    from qpipe.api.finished_runs import Value as Value
    from qpipe.api.finished_runs import runs as runs
    from qpipe.api.one_network import quantize as quantize
    from qpipe.api.recipes import LoadedRecipe as LoadedRecipe
    from qpipe.api.recipes import PlannedStep as PlannedStep
    from qpipe.api.recipes import load as load
    from qpipe.errors import BusyError as BusyError
    from qpipe.errors import DeviceError as DeviceError
    from qpipe.errors import IncompleteError as IncompleteError
    from qpipe.errors import PluginError as PluginError
    from qpipe.errors import QpipeError as QpipeError
    from qpipe.errors import RecipeError as RecipeError
    from qpipe.errors import StageError as StageError
    from qpipe.hookspecs import Register as Register
    from qpipe.hookspecs import RegisterDevice as RegisterDevice
    from qpipe.hookspecs import RegisterPower as RegisterPower
    from qpipe.hookspecs import hookimpl as hookimpl
    from qpipe.samples.store import Samples as Samples
    from qpipe.stages.options import StageOption as StageOption
    from qpipe.types import Build as Build
    from qpipe.types import Capabilities as Capabilities
    from qpipe.types import Dataset as Dataset
    from qpipe.types import Deployed as Deployed
    from qpipe.types import Deployments as Deployments
    from qpipe.types import Device as Device
    from qpipe.types import Introduction as Introduction
    from qpipe.types import Measurement as Measurement
    from qpipe.types import Metric as Metric
    from qpipe.types import Placement as Placement
    from qpipe.types import Platform as Platform
    from qpipe.types import Power as Power
    from qpipe.types import Preprocessing as Preprocessing
    from qpipe.types import Progress as Progress
    from qpipe.types import Resources as Resources
    from qpipe.types import Round as Round
    from qpipe.types import Sample as Sample
    from qpipe.types import Stored as Stored
    from qpipe.types import Target as Target

__version__ = "0.1.0"

# name -> module: loaded when first asked for, so that `qpipe --help` does not pay for numpy
_HOMES = {
    "api.one_network": ("quantize",),
    "api.recipes": ("LoadedRecipe", "PlannedStep", "load"),
    "api.finished_runs": ("ResultRow", "Results", "Run", "Value", "runs"),
    "errors": (
        "BusyError",
        "DeviceError",
        "IncompleteError",
        "PluginError",
        "QpipeError",
        "RecipeError",
        "StageError",
    ),
    "hookspecs": ("Register", "RegisterDevice", "RegisterPower", "hookimpl"),
    "stages.options": ("StageOption",),
    "samples.store": ("Samples",),
    "types": (
        "Build",
        "Capabilities",
        "Dataset",
        "Deployed",
        "Deployments",
        "Device",
        "Introduction",
        "Measurement",
        "Metric",
        "Placement",
        "Platform",
        "Power",
        "Preprocessing",
        "Progress",
        "Resources",
        "Round",
        "Sample",
        "Stored",
        "Target",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])

delayed_imports.delay()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qpipe' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"qpipe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
