"""Read a recipe: every key and stage known, every option checked, each message with file:line."""

from __future__ import annotations

import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from qpipe.digests import digest_json
from qpipe.errors import PluginError, QpipeError, RecipeError, shown, suggest
from qpipe.recipe import pools, sweeps, yaml_document
from qpipe.recipe.limits import parse_fraction, read_keep
from qpipe.recipe.stage_call import Call, CallReader, plain
from qpipe.recipe.yaml_document import Document, FromCommandLine
from qpipe.stages import registry
from qpipe.stages.options import options
from qpipe.stages.registry import Registry
from qpipe.storage.remote_files import hidden, url_problem
from qpipe.storage.sharing_cache import Sharing
from qpipe.types import SHARE, Metric

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
    "keep",
    "expect",
    "cache",
    "cluster",
)
REQUIRED_KEYS = ("samples", "models", "schemes", "measure")
SHARING_EXAMPLE = "{shared: FOLDER, users: [NAME]}, or {url: URL}"
CLUSTER_EXAMPLE = "tcp://HOST:8786"
LOCAL_CLUSTER = "local"  # one that is started for the run, here
CLUSTER = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+")  # the protocols of Dask
EXPECTED_EXAMPLE = "{value: 0.85, tolerance: 0.02}"
FLOAT_SCHEME = "float32"  # name of the float reference where the recipe names none
CHAIN_KINDS = ("transform", "quantize")  # in the order in which they stand in a chain

Goal = Literal["min", "max"]
ExpectedScore = Mapping[str, float]  # value and tolerance
DEFAULT_OBJECTIVES: Mapping[str, Goal] = {"latency_ms": "min", "size_mb": "min", "agreement": "max"}


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked and complete."""

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
    pareto: Mapping[str, Goal]
    # objective -> relative difference that counts as none
    margins: Mapping[str, float] = field(default_factory=dict)
    # points that a scheme to ship may lose against float; None for the default
    keep: float | None = None
    # model -> metric -> what the float network must score
    expect: Mapping[str, Mapping[str, ExpectedScore]] = field(default_factory=dict)
    cluster: str = ""  # the address of a scheduler whose workers carry out steps of the host
    sharing: Sharing | None = None  # where results are taken from and given to, if anywhere
    cache_url: str = ""  # the same by a URL
    plugins: Sequence[Path] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the expanded recipe: equal for two files that mean the same."""
        meaning = {
            "name": self.name,
            "samples": self.samples.plain(),
            "calibrate": self.calibrate.plain(),
            "models": plain(self.models),
            "own": plain({name: call.beside for name, call in self.models.items()}),
            "expect": plain(self.expect),
            "schemes": plain(self.schemes),
            "builds": plain(self.builds),
            "deploy": self.deploy.plain(),
            "measure": plain(self.measure),
            "devices": list(self.devices),
        }
        return digest_json(meaning)

    def expected(self, model: str) -> list[tuple[Call, dict[str, ExpectedScore]]]:
        """Return each measuring stage that scores expected metrics of a model, with these."""
        remaining = dict(self.expect.get(model, {}))
        stages: list[tuple[Call, dict[str, ExpectedScore]]] = []
        for call in self.measure:
            scores = {name: remaining.pop(name) for name in metrics_of(call) if name in remaining}
            if scores:
                stages.append((call, scores))
        return stages

    @property
    def measured(self) -> list[str] | None:
        """All measured metrics, sorted; None where a stage does not state what it measures."""
        return _measured_metrics(self.measure)

    @property
    def shares(self) -> set[str]:
        """The metrics whose values lie between 0 and 1."""
        units: dict[str, str] = {}
        for call in self.measure:
            units |= metrics_of(call)
        return {name for name, unit in units.items() if unit == SHARE}

    @property
    def floats(self) -> list[str]:
        """The schemes that are the float network itself."""
        return [name for name, chain in self.schemes.items() if not chain]

    @property
    def unquantized(self) -> list[str]:
        """The schemes that have stages, but none that quantizes."""
        names = []
        for name, chain in self.schemes.items():
            if chain and all(call.kind != "quantize" for call in chain):
                names.append(name)
        return names

    def narrowed(self, only: Sequence[str], devices: Sequence[str]) -> Recipe:
        """Return the recipe with these schemes and the float reference, on these devices.

        An empty sequence keeps those of the recipe.
        """
        for name in only:
            if name not in self.schemes:
                where = shown(self.path)
                reason = f"no scheme '{name}' in {where}"
                raise RecipeError(f"--only: {reason}; {suggest(name, self.schemes)}")
        schemes = self.schemes
        if only:
            schemes = {name: chain for name, chain in schemes.items() if name in only or not chain}
        unique_devices = list(dict.fromkeys(devices or self.devices))
        return replace(self, schemes=schemes, devices=unique_devices)


def scoring(call: Call) -> dict[str, Any]:
    """Return the metrics and the postprocess that a measuring stage scores with.

    The result has the keys `metric` (a list) and `postprocess`, whatever the stage's options are
    called.
    """
    metrics: list[Call] = []
    postprocess: Call | None = None
    for name, option in options(call.stage.function).items():
        value = call.options[name]
        if not value:
            continue
        if option.stage_kind == "metric":
            metrics += value if isinstance(value, list | tuple) else [value]
        elif option.stage_kind == "postprocess" and postprocess is None:
            postprocess = value
    return {"metric": metrics, "postprocess": postprocess}


def metrics_of(call: Call) -> dict[str, str]:
    """Return the unit of each metric that a measuring stage scores.

    Raise PluginError where a metric stage fails.
    """
    metrics = [_make_metric(metric_call) for metric_call in scoring(call)["metric"]]
    return {str(metric.name): str(metric.unit) for metric in metrics}


def _make_metric(call: Call) -> Metric:
    try:
        metric: Metric = call.stage.function(**call.resolved())
    except QpipeError:
        raise
    except Exception as error:  # foreign code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise PluginError(f"{call.where}: metric {call.name} does not load: {reason}") from error
    return metric


def load(path: Path, settings: Mapping[str, str] | None = None) -> tuple[Recipe, Registry]:
    """Read a recipe and the plugins it names; `settings` are `--set` texts, read as YAML values."""
    return from_document(yaml_document.read(path), settings)


def from_document(
    source: Document, settings: Mapping[str, str] | None = None
) -> tuple[Recipe, Registry]:
    """Read a recipe from a document; see load."""
    if not isinstance(source.root, dict):
        raise RecipeError(f"{source.at()}: a recipe is a map of {', '.join(KEYS)}")
    for key in source.root:
        if key not in KEYS:
            raise RecipeError(f"{source.at(key)}: unknown key '{key}'; there is {', '.join(KEYS)}")
    variables = _variables(source, settings or {})
    root = yaml_document.substitute(source, variables)
    plugin_files = [
        _plugin_file(source, file, index)
        for index, file in enumerate(_list_at(source, root, "plugins"))
    ]
    plugins = registry.load(plugin_files)
    return _Reader(source, root, plugins).recipe(plugin_files, variables), plugins


def _variables(source: Document, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe's variables with the settings of the command line."""
    variables = source.root.get("variables") or {}
    if not isinstance(variables, dict):
        raise RecipeError(f"{source.at('variables')}: variables is a map of names to values")
    for name, value in variables.items():
        if isinstance(value, str) and "${" in value:
            where = source.at("variables", name)
            reason = f"'{value}' in a variable is not replaced"
            raise RecipeError(f"{where}: {reason}; write it where it is used")
    settled = dict(variables)
    for name, text in settings.items():
        if name not in variables:
            where = shown(source.path)
            reason = f"no such variable in {where}"
            raise RecipeError(f"--set {name}: {reason}; {suggest(name, variables)}")
        settled[name] = _setting_value(text, source.path)
    return settled


def _setting_value(text: str, path: Path) -> Any:
    """Return a `--set` text as the YAML value that it is, or as text."""
    try:
        value = yaml_document.parse(text, path).root
    except RecipeError:
        value = text
    return FromCommandLine(value) if isinstance(value, str) else value


def _list_at(source: Document, root: Mapping[str, Any], key: str) -> list[Any]:
    value = root.get(key) or []
    if not isinstance(value, list):
        raise RecipeError(f"{source.at(key)}: {key} is a list; write [{value}]")
    return value


def _plugin_file(source: Document, file: Any, index: int) -> Path:
    where = source.at("plugins", index)
    if not isinstance(file, str):
        raise RecipeError(f"{where}: expected text, got {file!r}")
    path = (source.path.parent / file).resolve()
    if not path.is_file():
        fix = "give the path of a Python file, relative to the recipe"
        raise RecipeError(f"{where}: no such plugin file '{file}'; {fix}")
    return path


class _Reader:
    """Converts the keys of one recipe."""

    def __init__(self, source: Document, root: Any, plugins: Registry) -> None:
        self.source = source
        self.root = root
        self.call_reader = CallReader(source, plugins)
        self.call = self.call_reader.call

    def recipe(self, plugin_files: Sequence[Path], variables: Mapping[str, Any]) -> Recipe:
        self.check_required_keys()
        models = {name: self.model(name) for name in self.names("models", "model")}
        measure = self.measure()
        return Recipe(
            name=self.recipe_name(),
            path=self.source.path,
            text=self.source.text,
            samples=self.samples(models),
            models=models,
            calibrate=self.call_or_default("calibrate", "histogram"),
            schemes=self.schemes(),
            builds=self.builds(),
            deploy=self.call_or_default("deploy", "copy"),
            measure=measure,
            devices=self.devices(),
            pareto=self.objectives(measure),
            margins=self.margins(),
            keep=self.keep(),
            expect=self.expected_scores(models, measure),
            cluster=self.cluster(),
            sharing=self.sharing(),
            cache_url=self.cache_url(),
            plugins=plugin_files,
            variables=dict(variables),
        )

    def check_required_keys(self) -> None:
        for key in REQUIRED_KEYS:
            if self.root.get(key) or (key == "samples" and self.all_models_bring_samples()):
                continue
            needs = ", ".join(REQUIRED_KEYS)
            raise RecipeError(f"{self.source.at()}: key '{key}' is missing; a recipe needs {needs}")

    def all_models_bring_samples(self) -> bool:
        models = self.root.get("models")
        if not isinstance(models, dict):
            return False
        return all(isinstance(model, dict) and model.get("samples") for model in models.values())

    def recipe_name(self) -> str:
        name = self.root.get("name", self.source.path.stem)
        return yaml_document.checked_name(name, self.source.at("name"), "recipe")

    def call_or_default(self, kind: str, default: str) -> Call:
        return self.call(kind, self.root.get(kind, default), (kind,))

    def model(self, name: str) -> Call:
        """Read a model, with samples of its own as in {onnx: {...}, samples: {...}}."""
        value, companions = self.call_reader.split_companions(
            self.root["models"][name], ("samples",)
        )
        model_call = self.call("import", value, ("models", name))
        companion_calls = {
            key: self.call("samples", companion, ("models", name, key))
            for key, companion in companions.items()
        }
        return replace(model_call, beside=companion_calls)

    def samples(self, models: Mapping[str, Call]) -> Call:
        if self.root.get("samples"):
            return self.call("samples", self.root["samples"], ("samples",))
        first_model = next(iter(models.values()))
        samples_call: Call = first_model.beside["samples"]
        return samples_call

    def measure(self) -> list[Call]:
        stages = _list_at(self.source, self.root, "measure")
        return [
            self.call("measure", stage, ("measure", index)) for index, stage in enumerate(stages)
        ]

    def devices(self) -> list[str]:
        names = _list_at(self.source, self.root, "devices") or ["local"]
        return [
            pools.checked_word(name, self.source.at("devices", index))
            for index, name in enumerate(names)
        ]

    def names(self, key: str, what: str) -> list[str]:
        value = self.root[key]
        if not isinstance(value, dict):
            raise RecipeError(f"{self.source.at(key)}: {key} is a map of names to stages")
        return [yaml_document.checked_name(name, self.source.at(key, name), what) for name in value]

    def schemes(self) -> dict[str, list[Call]]:
        """Read the schemes; the float reference is one of them, named or not."""
        self.names("schemes", "scheme")
        written = sweeps.expand(self.source, self.root["schemes"])
        chains = {name: self.chain(chain) for name, chain in written.items()}
        self.check_some_chain_quantizes(chains)
        if not all(chains.values()):
            return chains
        float_name = "float" if FLOAT_SCHEME in chains else FLOAT_SCHEME
        return {float_name: [], **chains}

    def check_some_chain_quantizes(self, chains: Mapping[str, Sequence[Call]]) -> None:
        """Raise RecipeError where there are stages in chains, but none of them quantizes."""
        calls = [call for chain in chains.values() for call in chain]
        if calls and all(call.kind != "quantize" for call in calls):
            reason = "no scheme has a quantize stage, so that all are the float network"
            fix = "add one to a chain, such as symmetric"
            raise RecipeError(f"{self.source.at('schemes')}: {reason}; {fix}")

    def chain(self, written: sweeps.WrittenChain) -> list[Call]:
        scheme = written.scheme
        calls = [
            self.call(CHAIN_KINDS, stage, ("schemes", scheme, index))
            for index, stage in enumerate(written.stages)
        ]
        order = [CHAIN_KINDS.index(call.kind) for call in calls]
        if order != sorted(order):
            where = self.source.at("schemes", scheme)
            reason = "a transform follows a quantize stage"
            raise RecipeError(f"{where}: {reason}; put transforms first")
        return calls

    def builds(self) -> dict[str, Call]:
        if not self.root.get("builds"):
            return {"ort": self.call("compile", "onnxruntime", ("builds",))}
        return {
            name: self.call("compile", self.root["builds"][name], ("builds", name))
            for name in self.names("builds", "build")
        }

    def objectives(self, measure: Sequence[Call]) -> dict[str, Goal]:
        measured = _measured_metrics(measure)
        value = self.root.get("pareto")
        if not value:
            return {
                metric: goal
                for metric, goal in DEFAULT_OBJECTIVES.items()
                if measured is None or metric in measured
            }
        if not isinstance(value, dict):
            where = self.source.at("pareto")
            raise RecipeError(f"{where}: pareto is a map of metrics to min or max")
        return {
            metric: self.objective(metric, written, measured) for metric, written in value.items()
        }

    def objective(self, metric: str, written: Any, measured: Sequence[str] | None) -> Goal:
        goal = written["goal"] if _has_margin(written) else written
        where = self.source.at("pareto", metric)
        if goal not in ("min", "max"):
            raise RecipeError(f"{where}: '{metric}' is {goal!r}; it is min or max")
        if measured is not None and metric not in measured:
            fix = suggest(metric, measured)
            raise RecipeError(f"{where}: nothing measures '{metric}'; {fix}")
        checked_goal: Goal = goal
        return checked_goal

    def margins(self) -> dict[str, float]:
        """Return the margin of each objective that has one, as a fraction of the value."""
        margins: dict[str, float] = {}
        for metric, goal in (self.root.get("pareto") or {}).items():
            if not _has_margin(goal):
                continue
            margin = parse_fraction(goal["margin"])
            if not 0 <= margin < 1:
                where = self.source.at("pareto", metric)
                reason = f"margin {goal['margin']!r} of '{metric}'"
                raise RecipeError(f"{where}: {reason}; write it as 2% or 0.02")
            margins[metric] = margin
        return margins

    def keep(self) -> float | None:
        """Return what a scheme to ship may lose against float, in points; None by default."""
        value = self.root.get("keep")
        if value is None:
            return None
        try:
            return read_keep(value)
        except RecipeError as error:
            raise RecipeError(f"{self.source.at('keep')}: keep: {error}") from error

    def expected_scores(
        self, models: Mapping[str, Call], measure: Sequence[Call]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return what the float network must score, by model and metric.

        The recipe has one map for all models, or one for each.
        """
        value = self.root.get("expect") or {}
        if not isinstance(value, dict):
            where = self.source.at("expect")
            raise RecipeError(f"{where}: expect is a map of metrics to {EXPECTED_EXAMPLE}")
        if value and value.keys() <= models.keys():
            return {
                model: self.scores(written, measure, ("expect", model))
                for model, written in value.items()
            }
        common = self.scores(value, measure, ("expect",))
        return dict.fromkeys(models, common) if common else {}

    def scores(
        self, written: Any, measure: Sequence[Call], steps: tuple[str, ...]
    ) -> dict[str, dict[str, float]]:
        """Read a map of metrics to {value, tolerance}."""
        if not isinstance(written, dict):
            where = self.source.at(*steps)
            raise RecipeError(f"{where}: {written!r} is no map of metrics to {EXPECTED_EXAMPLE}")
        scored = sorted({name for call in measure for name in metrics_of(call)})
        scores: dict[str, dict[str, float]] = {}
        for metric, expected in written.items():
            where = self.source.at(*steps, metric)
            if metric not in scored:
                reason = f"nothing scores the float network by '{metric}'"
                raise RecipeError(f"{where}: {reason}; {suggest(metric, scored)}")
            if not _is_expected_score(expected):
                raise RecipeError(f"{where}: '{metric}' is {expected!r}; give {EXPECTED_EXAMPLE}")
            scores[metric] = {name: float(number) for name, number in expected.items()}
        return scores

    def cluster(self) -> str:
        address = self.root.get("cluster") or ""
        check_cluster(address, self.source.at("cluster"))
        return str(address)

    def sharing(self) -> Sharing | None:
        """Return the folder whose results are shared, and the users whose results are taken."""
        value = self.root.get("cache")
        if value is None or _is_cache_url(value):
            return None
        if not _is_sharing(value):
            where = self.source.at("cache")
            raise RecipeError(f"{where}: cache is {value!r}; give {SHARING_EXAMPLE}")
        names = value.get("users", [])
        users = {name: self.user_id(name, index) for index, name in enumerate(names)}
        return Sharing(self.source.path.parent / value["shared"], users)

    def cache_url(self) -> str:
        """Return the URL at which results are shared; empty for none."""
        value = self.root.get("cache")
        if not _is_cache_url(value):
            return ""
        url: str = value["url"]
        problem = url_problem(url)
        if problem:
            raise RecipeError(f"{self.source.at('cache', 'url')}: '{hidden(url)}' {problem}")
        return url

    def user_id(self, name: str, index: int) -> int:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            where = self.source.at("cache", "users", index)
            raise RecipeError(
                f"{where}: no user '{name}' on this machine; name those whose results are trusted"
            ) from None


def check_cluster(address: Any, where: str) -> None:
    """Raise RecipeError for what is no address of a cluster; empty text is none."""
    if address in ("", LOCAL_CLUSTER) or (isinstance(address, str) and CLUSTER.fullmatch(address)):
        return
    raise RecipeError(
        f"{where}: {address!r} is no cluster; give {CLUSTER_EXAMPLE}, or {LOCAL_CLUSTER}"
    )


def _is_sharing(value: Any) -> bool:
    """Return whether it is written {shared: FOLDER, users: [NAME]}, with or without users."""
    if not isinstance(value, dict) or not {"shared"} <= value.keys() <= {"shared", "users"}:
        return False
    names = value.get("users", [])
    texts = [value["shared"], *names] if isinstance(names, list) else [None]
    return all(isinstance(text, str) and text and "\0" not in text for text in texts)


def _is_cache_url(value: Any) -> bool:
    """Return whether it is written {url: URL}."""
    return isinstance(value, dict) and value.keys() == {"url"} and isinstance(value["url"], str)


def _is_expected_score(value: Any) -> bool:
    """Return whether it is written {value: NUMBER, tolerance: NUMBER}."""
    if not isinstance(value, dict) or value.keys() != {"value", "tolerance"}:
        return False
    return all(map(_is_number, value.values())) and value["tolerance"] >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _has_margin(goal: Any) -> bool:
    """Return whether an objective is written {goal: min, margin: 2%}."""
    return isinstance(goal, dict) and goal.keys() == {"goal", "margin"}


def _measured_metrics(measure: Sequence[Call]) -> list[str] | None:
    metrics: set[str] = set()
    for call in measure:
        metrics_of_stage = {*call.stage.gives, *metrics_of(call)}
        if not metrics_of_stage:
            return None
        metrics |= metrics_of_stage
    return sorted(metrics)
