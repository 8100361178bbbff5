"""qpipe: which quantization scheme to ship on this board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qpipe import delayed_imports

if TYPE_CHECKING:
    from qpipe.api.diagnosis import Diagnosis as Diagnosis
    from qpipe.api.fed_samples import FedSamples as FedSamples
    from qpipe.api.finished_runs import Run as Run
    from qpipe.api.finished_runs import RunEnding as RunEnding
    from qpipe.api.finished_runs import RunStep as RunStep
    from qpipe.api.finished_runs import find_run as find_run
    from qpipe.api.finished_runs import runs as runs
    from qpipe.api.metric_trends import trend as trend
    from qpipe.api.one_network import quantize as quantize
    from qpipe.api.recipe_plan import PlannedStep as PlannedStep
    from qpipe.api.recipe_plan import RecipePlan as RecipePlan
    from qpipe.api.recipes import LoadedRecipe as LoadedRecipe
    from qpipe.api.recipes import load as load
    from qpipe.api.result_rows import ResultRow as ResultRow
    from qpipe.api.result_rows import Results as Results
    from qpipe.api.result_rows import Value as Value
    from qpipe.api.run_comparison import Comparison as Comparison
    from qpipe.api.search_result import SearchResult as SearchResult
    from qpipe.api.step_explanations import StepExplanation as StepExplanation
    from qpipe.engine.events import Event as Event
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
    from qpipe.nightly.series import Point as Point
    from qpipe.nightly.series import Series as Series
    from qpipe.nightly.series import SeriesKey as SeriesKey
    from qpipe.report.text_table import TextTable as TextTable
    from qpipe.samples.store import Samples as Samples
    from qpipe.search.discoveries import Discovery as Discovery
    from qpipe.stages.options import StageOption as StageOption
    from qpipe.storage.rows import AttemptRow as AttemptRow
    from qpipe.storage.rows import MeasurementRow as MeasurementRow
    from qpipe.storage.rows import RunRow as RunRow
    from qpipe.storage.rows import StepRow as StepRow
    from qpipe.storage.workspace import DEFAULT_CACHE as DEFAULT_CACHE
    from qpipe.storage.workspace import DEFAULT_DB as DEFAULT_DB
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
    "api.diagnosis": ("Diagnosis",),
    "api.fed_samples": ("FedSamples",),
    "api.finished_runs": ("Run", "RunEnding", "RunStep", "find_run", "runs"),
    "api.metric_trends": ("trend",),
    "api.one_network": ("quantize",),
    "api.recipe_plan": ("PlannedStep", "RecipePlan"),
    "api.recipes": ("LoadedRecipe", "load"),
    "api.run_comparison": ("Comparison",),
    "api.result_rows": ("ResultRow", "Results", "Value"),
    "api.search_result": ("SearchResult",),
    "api.step_explanations": ("StepExplanation",),
    "engine.events": ("Event",),
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
    "search.discoveries": ("Discovery",),
    "stages.options": ("StageOption",),
    "nightly.series": ("Point", "Series", "SeriesKey"),
    "report.text_table": ("TextTable",),
    "samples.store": ("Samples",),
    "storage.rows": ("AttemptRow", "MeasurementRow", "RunRow", "StepRow"),
    "storage.workspace": ("DEFAULT_CACHE", "DEFAULT_DB"),
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
