"""A YAML file -> a recipe: every key known, every stage found, every option checked, each message with file:line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from qpipe.errors import PluginError, QpipeError, RecipeError, suggest
from qpipe.recipe import yaml_document
from qpipe.recipe.limits import part_of
from qpipe.recipe.stage_call import Call, CallReader, plain
from qpipe.recipe.yaml_document import Document, FromCommandLine
from qpipe.stages import registry
from qpipe.stages.options import options
from qpipe.stages.registry import Registry
from qpipe.types import SHARE

KEYS = (
    "name",
    "plugins",
    "variables",
    "samples",
    "models",
    "calibrate",
    "schemes",
    "builds",
    "deploy",
    "measure",
    "devices",
    "pareto",
    "expect",
)
EXPECTED = "{value: 0.85, tolerance: 0.02}"
FLOAT = "float32"  # what the float reference is called where no scheme is named for it


@dataclass(frozen=True)
class Recipe:
    """What a recipe asks for, checked and complete."""

    name: str
    path: Path
    text: str
    samples: Call  # of the models that bring none of their own (`beside` the model's call)
    models: Mapping[str, Call]
    calibrate: Call
    schemes: Mapping[str, Sequence[Call]]
    builds: Mapping[str, Call]
    deploy: Call
    measure: Sequence[Call]
    devices: Sequence[str]
    pareto: Mapping[str, Literal["min", "max"]]
    margins: Mapping[str, float] = field(
        default_factory=dict
    )  # of objectives: differences that are worth nothing
    expect: Mapping[str, Mapping[str, Mapping[str, float]]] = field(
        default_factory=dict
    )  # model -> metric -> bounds
    plugins: Sequence[Path] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of what it expands to: equal for two files that mean the same, on the same devices."""
        meaning = {
            "name": self.name,
            "samples": self.samples.plain(),
            "calibrate": self.calibrate.plain(),
            "models": plain(self.models),
            "own": plain({n: c.beside for n, c in self.models.items()}),
            "expect": plain(self.expect),
            "schemes": plain(self.schemes),
            "builds": plain(self.builds),
            "deploy": self.deploy.plain(),
            "measure": plain(self.measure),
            "devices": list(self.devices),
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def expected(self, model: str) -> list[tuple[Call, dict[str, Mapping[str, float]]]]:
        """Each measuring stage that scores a metric of which something is expected, with what that is."""
        left = dict(self.expect.get(model, {}))
        found = []
        for call in self.measure:
            own = {name: left.pop(name) for name in metrics_of(call) if name in left}
            if own:
                found.append((call, own))
        return found

    @property
    def measured(self) -> list[str] | None:
        """All that is measured, sorted; None where a stage does not say what it measures."""
        return _measured(self.measure)

    @property
    def shares(self) -> set[str]:
        """The metrics that lie between 0 and 1."""
        return {
            name
            for call in self.measure
            for name, unit in metrics_of(call).items()
            if unit == SHARE
        }

    @property
    def floats(self) -> list[str]:
        """The schemes that are the float network itself."""
        return [name for name, chain in self.schemes.items() if not chain]

    def narrowed(self, only: Sequence[str], devices: Sequence[str]) -> Recipe:
        """With these schemes alone (and the float reference) and on these devices."""
        for name in only:
            if name not in self.schemes:
                where = yaml_document.shown(self.path)
                raise RecipeError(
                    f"--only: no scheme '{name}' in {where}; {suggest(name, self.schemes)}"
                )
        schemes = {n: c for n, c in self.schemes.items() if not only or n in only or not c}
        return replace(self, schemes=schemes, devices=list(dict.fromkeys(devices or self.devices)))


def scoring(call: Call) -> dict[str, Any]:
    """What a measuring stage scores with: all its metrics and its postprocess, as options of one name each."""
    kinds = {name: option.stage_kind for name, option in options(call.stage.function).items()}
    lists = [call.options[name] or [] for name, kind in kinds.items() if kind == "metric"]
    metrics = [each for own in lists for each in (own if isinstance(own, list | tuple) else [own])]
    decoders = [call.options[name] for name, kind in kinds.items() if kind == "postprocess"]
    return {"metric": metrics, "postprocess": next((each for each in decoders if each), None)}


def metrics_of(call: Call) -> dict[str, str]:
    """The metrics that a measuring stage is told to score, with their units; PluginError where making one breaks."""
    units = {}
    for metric in scoring(call)["metric"]:
        try:
            made = metric.stage.function(**metric.resolved())
            units[str(made.name)] = str(made.unit)
        except QpipeError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise PluginError(
                f"{metric.where}: metric {metric.name} does not load: {reason}"
            ) from error
    return units


def load(path: Path, settings: Mapping[str, str] | None = None) -> tuple[Recipe, Registry]:
    """Read a recipe and the plugins it names; `settings` are `--set` texts, read as YAML values."""
    source = yaml_document.read(path)
    if not isinstance(source.root, dict):
        raise RecipeError(f"{source.at()}: a recipe is a map of {', '.join(KEYS)}")
    for key in source.root:
        if key not in KEYS:
            raise RecipeError(f"{source.at(key)}: unknown key '{key}'; there is {', '.join(KEYS)}")
    variables = _variables(source, settings or {})
    root = yaml_document.substitute(source, variables)
    files = [_plugin_file(source, file, i) for i, file in enumerate(_list(source, root, "plugins"))]
    plugins = registry.load(files)
    return _Reader(source, root, plugins).recipe(files, variables), plugins


def _variables(source: Document, settings: Mapping[str, str]) -> dict[str, Any]:
    variables = source.root.get("variables") or {}
    if not isinstance(variables, dict):
        raise RecipeError(f"{source.at('variables')}: variables is a map of names to values")
    variables = dict(variables)
    for name, value in variables.items():
        if isinstance(value, str) and "${" in value:
            where = source.at("variables", name)
            raise RecipeError(
                f"{where}: '{value}' in a variable is not replaced; write it where it is used"
            )
    for name, text in settings.items():
        if name not in variables:
            where = yaml_document.shown(source.path)
            raise RecipeError(
                f"--set {name}: no such variable in {where}; {suggest(name, variables)}"
            )
        try:
            value = yaml_document.parse(text, source.path).root
        except RecipeError:
            value = text
        variables[name] = FromCommandLine(value) if isinstance(value, str) else value
    return variables


def _list(source: Document, root: Mapping[str, Any], key: str) -> list[Any]:
    value = root.get(key) or []
    if not isinstance(value, list):
        raise RecipeError(f"{source.at(key)}: {key} is a list; write [{value}]")
    return value


def _text(source: Document, value: Any, *steps: str | int) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"{source.at(*steps)}: expected text, got {value!r}")
    return value


def _plugin_file(source: Document, file: Any, index: int) -> Path:
    found = (source.path.parent / _text(source, file, "plugins", index)).resolve()
    if not found.is_file():
        right = "give the path of a Python file, relative to the recipe"
        raise RecipeError(f"{source.at('plugins', index)}: no such plugin file '{file}'; {right}")
    return found


class _Reader:
    """Turns the keys of a recipe into what they mean."""

    def __init__(self, source: Document, root: Any, plugins: Registry) -> None:
        self.source = source
        self.root = root
        self.reader = CallReader(source, plugins)
        self.call = self.reader.call

    def recipe(self, files: Sequence[Path], variables: Mapping[str, Any]) -> Recipe:
        source = self.source
        root = self.root
        required = ("samples", "models", "schemes", "measure")
        for key in required:
            if not root.get(key) and not (key == "samples" and self._models_bring_samples()):
                raise RecipeError(
                    f"{source.at()}: key '{key}' is missing; a recipe needs {', '.join(required)}"
                )
        models = {name: self.model(name) for name in self.names("models", "model")}
        measure = [
            self.call("measure", m, ("measure", i))
            for i, m in enumerate(_list(source, root, "measure"))
        ]
        schemes = {
            name: self.chain(root["schemes"][name], name)
            for name in self.names("schemes", "scheme")
        }
        if not any(not chain for chain in schemes.values()):
            schemes = {FLOAT if FLOAT not in schemes else "float": [], **schemes}
        devices = [
            yaml_document.name(d, source.at("devices", i), "device")
            for i, d in enumerate(self._devices())
        ]
        return Recipe(
            name=yaml_document.name(
                root.get("name", source.path.stem), source.at("name"), "recipe"
            ),
            path=source.path,
            text=source.text,
            samples=self.samples(models),
            models=models,
            calibrate=self.call("calibrate", root.get("calibrate", "histogram"), ("calibrate",)),
            schemes=schemes,
            builds=self.builds(),
            deploy=self.call("deploy", root.get("deploy", "copy"), ("deploy",)),
            measure=measure,
            devices=devices,
            pareto=self.pareto(measure),
            margins=self.margins(),
            expect=self.expect(models, measure),
            plugins=files,
            variables=dict(variables),
        )

    def _models_bring_samples(self) -> bool:
        models = self.root.get("models")
        return isinstance(models, dict) and all(
            isinstance(m, dict) and m.get("samples") for m in models.values()
        )

    def model(self, name: str) -> Call:
        """A model, with samples of its own where it is written so: {onnx: {...}, samples: {...}}."""
        value, beside = self.reader.accompanied(self.root["models"][name], ("samples",))
        call = self.call("import", value, ("models", name))
        own = {key: self.call("samples", its, ("models", name, key)) for key, its in beside.items()}
        return replace(call, beside=own)

    def samples(self, models: Mapping[str, Call]) -> Call:
        if self.root.get("samples"):
            return self.call("samples", self.root["samples"], ("samples",))
        own: Call = next(iter(models.values())).beside["samples"]
        return own

    def _devices(self) -> list[Any]:
        return _list(self.source, self.root, "devices") or ["local"]

    def names(self, key: str, what: str) -> list[str]:
        value = self.root[key]
        if not isinstance(value, dict):
            raise RecipeError(f"{self.source.at(key)}: {key} is a map of names to stages")
        return [yaml_document.name(name, self.source.at(key, name), what) for name in value]

    def chain(self, value: Any, scheme: str) -> list[Call]:
        if not isinstance(value, list):
            value = [] if value is None else [value]
        calls = [
            self.call(("transform", "quantize"), item, ("schemes", scheme, i))
            for i, item in enumerate(value)
        ]
        kinds = [call.kind for call in calls]
        if kinds != sorted(kinds, key=("transform", "quantize").index):
            where = self.source.at("schemes", scheme)
            raise RecipeError(
                f"{where}: a transform follows a quantize stage; put transforms first"
            )
        return calls

    def builds(self) -> dict[str, Call]:
        if not self.root.get("builds"):
            return {"ort": self.call("compile", "onnxruntime", ("builds",))}
        return {
            n: self.call("compile", self.root["builds"][n], ("builds", n))
            for n in self.names("builds", "build")
        }

    def pareto(self, measure: Sequence[Call]) -> dict[str, Literal["min", "max"]]:
        known = _measured(measure)
        value = self.root.get("pareto")
        if not value:
            usual: dict[str, Literal["min", "max"]] = {
                "latency_ms": "min",
                "size_mb": "min",
                "agreement": "max",
            }
            return {
                metric: goal for metric, goal in usual.items() if known is None or metric in known
            }
        if not isinstance(value, dict):
            raise RecipeError(
                f"{self.source.at('pareto')}: pareto is a map of metrics to min or max"
            )
        goals = {
            metric: goal["goal"] if _has_margin(goal) else goal for metric, goal in value.items()
        }
        for metric, goal in goals.items():
            where = self.source.at("pareto", metric)
            if goal not in ("min", "max"):
                raise RecipeError(f"{where}: '{metric}' is {goal!r}; it is min or max")
            if known is not None and metric not in known:
                raise RecipeError(f"{where}: nothing measures '{metric}'; {suggest(metric, known)}")
        return goals

    def margins(self) -> dict[str, float]:
        """Of the objectives that have one: a part of the value."""
        given = {
            metric: goal
            for metric, goal in (self.root.get("pareto") or {}).items()
            if _has_margin(goal)
        }
        found = {metric: part_of(goal["margin"]) for metric, goal in given.items()}
        for metric, margin in found.items():
            if not 0 <= margin < 1:
                where = self.source.at("pareto", metric)
                raise RecipeError(
                    f"{where}: margin {given[metric]['margin']!r} of '{metric}'; write it as 2% or 0.02"
                )
        return found

    def expect(
        self, models: Mapping[str, Call], measure: Sequence[Call]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """What the float network must score, by model: one map for all models, or one for each."""
        value = self.root.get("expect") or {}
        if not isinstance(value, dict):
            raise RecipeError(
                f"{self.source.at('expect')}: expect is a map of metrics to {EXPECTED}"
            )
        if value and value.keys() <= models.keys():
            return {m: self.bounds(own, measure, ("expect", m)) for m, own in value.items()}
        common = self.bounds(value, measure, ("expect",))
        return dict.fromkeys(models, common) if common else {}

    def bounds(
        self, value: Any, measure: Sequence[Call], steps: tuple[str, ...]
    ) -> dict[str, dict[str, float]]:
        known = sorted({name for call in measure for name in metrics_of(call)})
        if not isinstance(value, dict):
            raise RecipeError(
                f"{self.source.at(*steps)}: {value!r} is no map of metrics to {EXPECTED}"
            )
        for metric, given in value.items():
            where = self.source.at(*steps, metric)
            if metric not in known:
                raise RecipeError(
                    f"{where}: nothing scores the float network by '{metric}'; {suggest(metric, known)}"
                )
            numbers = isinstance(given, dict) and all(map(_is_number, given.values()))
            if not numbers or given.keys() != {"value", "tolerance"} or given["tolerance"] < 0:
                raise RecipeError(f"{where}: '{metric}' is {given!r}; give {EXPECTED}")
        return {metric: {k: float(v) for k, v in given.items()} for metric, given in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _has_margin(goal: Any) -> bool:
    """Whether it is written {goal: min, margin: 2%}."""
    return isinstance(goal, dict) and goal.keys() == {"goal", "margin"}


def _measured(measure: Sequence[Call]) -> list[str] | None:
    """All that is measured, sorted; None where a stage does not say what it measures."""
    found: set[str] = set()
    for call in measure:
        own = {*call.stage.gives, *metrics_of(call)}
        if not own:
            return None
        found |= own
    return sorted(found)
