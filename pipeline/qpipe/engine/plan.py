"""A recipe -> a graph of steps, each computed once however many schemes share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qpipe.engine import cache_keys
from qpipe.engine.engine_stages import EXPECT, REFERENCE
from qpipe.engine.targets import platform_of, target_of
from qpipe.errors import PluginError
from qpipe.recipe.recipe import Recipe, scoring
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import needs
from qpipe.types import Capabilities, Platform, Target

READINGS = ("samples", "import")  # kinds that read what the recipe names
BROUGHT = (
    "progress",
    "workdir",
    "device",
    "target",
    "platform",
)  # what a step gets that no other step makes


SampleDigests = Callable[["Step"], Mapping[str, str]]


@dataclass(frozen=True)
class DeviceInPlan:
    """A device as the plan knows it: how to reach it, and what it said of itself when last asked."""

    name: str
    call: Call
    capabilities: Capabilities | None = None


@dataclass(frozen=True)
class Step:
    """A stage's place in a run. `needs` maps parameters to the steps that give them; `fan_in` are those whose failure
    does not stop it; `after` those that give it nothing, and must have gone well."""

    id: str
    kind: str  # a stage kind, or what the engine does itself: reference, expect, upload (samples to a device)
    call: Call | None
    needs: Mapping[str, str]
    coordinates: Mapping[str, str]
    key: str
    fields: Mapping[str, Any]
    fan_in: Sequence[str] = ()
    after: Sequence[str] = ()
    device: str | None = None
    target: Target | None = None
    platform: Platform | None = None
    is_float: bool = False

    @property
    def cacheable(self) -> bool:
        """Whether its result holds for as long as its key does."""
        return self.kind not in ("deploy", "upload") and not self.volatile

    @property
    def volatile(self) -> bool:
        """Whether it measures the moment, as latency does."""
        return self.kind == "measure" and self.call is not None and not self.call.stage.cached

    @property
    def label(self) -> str:
        """What its row is called: model/scheme/build."""
        return "/".join(self.coordinates[part] for part in ("model", "scheme", "build"))

    @property
    def dependencies(self) -> list[str]:
        """All the steps it waits for."""
        return [*dict.fromkeys([*self.needs.values(), *self.fan_in, *self.after])]


@dataclass
class Plan:
    """Steps in an order in which each follows what it needs."""

    recipe: Recipe
    steps: dict[str, Step] = field(default_factory=dict)
    samples: dict[str, str] = field(
        default_factory=dict
    )  # model -> the step that makes its samples
    imported: dict[str, str] = field(default_factory=dict)  # model -> its import step
    uploads: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  # device, model -> what brings its samples there

    @property
    def readings(self) -> list[str]:
        """The steps that read what the recipe names: samples and networks."""
        return [*dict.fromkeys([*self.samples.values(), *self.imported.values()])]

    @property
    def goals(self) -> list[str]:
        """What it is all for: the measurements, what is expected of float, or all steps where there is neither."""
        return [
            step.id for step in self.steps.values() if step.kind in ("measure", EXPECT.kind)
        ] or list(self.steps)

    @property
    def results(self) -> list[tuple[str, str]]:
        """Kind and key of all that it may find in the cache, or put there."""
        return [(step.kind, step.key) for step in self.steps.values() if step.cacheable]

    def only(self, goals: Collection[str]) -> Plan:
        """The plan of these steps and of what they are made from."""
        wanted: set[str] = set()
        left = list(goals)
        while left:
            id_ = left.pop()
            if id_ not in wanted:
                wanted.add(id_)
                left += [*self.steps[id_].needs.values(), *self.steps[id_].fan_in]
        steps = {id_: step for id_, step in self.steps.items() if id_ in wanted}
        return Plan(self.recipe, steps, self.samples, self.imported, self.uploads)

    def drop(self, devices: Collection[str]) -> None:
        """Leave out what belongs to devices that cannot be reached; what only they needed is never looked at."""
        self.steps = {id_: step for id_, step in self.steps.items() if step.device not in devices}


def make(
    recipe: Recipe, devices: Sequence[DeviceInPlan], samples: SampleDigests = lambda _: {}
) -> Plan:
    """Expand the recipe for these devices. `samples` tells the digests of calibration and evaluation samples where they
    are known: then a change of one part is no change for what needs only the other, nor is a stage that gives the same.
    """
    return _Planner(recipe, devices, samples).plan()


class _Planner:
    def __init__(
        self, recipe: Recipe, devices: Sequence[DeviceInPlan], samples: SampleDigests
    ) -> None:
        self.recipe = recipe
        self.devices = devices
        self.samples = samples
        self.result = Plan(recipe)
        self.by_meaning: dict[Any, str] = {}
        self.gates: dict[str, list[str]] = {}  # model -> the steps that check its float score

    def plan(self) -> Plan:
        for model, call in self.recipe.models.items():
            own = call.beside.get("samples")
            name = f"{model}/samples" if own else "samples"
            self.result.samples[model] = self.add(name, "samples", own or self.recipe.samples, {})
            self.result.imported[model] = self.add(
                f"{model}/import", "import", call, {}, {"model": model}
            )
        for model in self.recipe.models:
            self.gates[model] = [
                self.expect(model, call, of) for call, of in self.recipe.expected(model)
            ]
        for device in self.devices:
            self.on_device(device)
        return self.result

    def add(
        self,
        name: str,
        kind: str,
        call: Call | None,
        given: Mapping[str, str],
        coordinates: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """Add a step unless one that means the same is there; its id either way."""
        step_fields = self.fields(kind, call, given, **more)
        own = (
            name if kind in ("import", "deploy", "measure") else ""
        )  # two schemes with one build are still two rows
        gates = (
            ()
            if kind in READINGS
            else tuple(self.gates.get((coordinates or {}).get("model", ""), ()))
        )
        meaning = (kind, cache_keys.key(step_fields), more.get("device"), own, gates)
        if meaning in self.by_meaning:
            return self.by_meaning[meaning]
        more = {**more, "after": gates}
        unique = name
        while unique in self.result.steps:
            stem, _, number = unique.rpartition("~")
            unique = f"{stem}~{int(number) + 1}" if stem else f"{name}~2"
        step = Step(
            unique,
            kind,
            call,
            given,
            coordinates or {},
            cache_keys.key(step_fields),
            step_fields,
            **more,
        )
        self.result.steps[unique] = step
        self.by_meaning[meaning] = unique
        return unique

    def fields(
        self, kind: str, call: Call | None, given: Mapping[str, str], **more: Any
    ) -> cache_keys.Fields:
        """All that can change the step's result."""
        steps = self.result.steps
        found: cache_keys.Fields = cache_keys.of_call(call) if call else cache_keys.of_engine(kind)
        found["needs"] = {
            parameter: self.content(parameter, steps[step]) for parameter, step in given.items()
        }
        found["fan_in"] = {step: steps[step].key for step in more.get("fan_in", ())}
        if kind not in ("deploy", "upload"):
            found["host"] = cache_keys.of_host()
        for name in ("target", "platform"):
            if more.get(name):
                found[name] = asdict(more[name])
        if more.get("device"):
            device = next(d for d in self.devices if d.name == more["device"])
            found["device"] = (
                device.capabilities.fingerprint if device.capabilities else device.name
            )
            found["driver"] = cache_keys.package(device.call.stage)
        return found

    def content(self, parameter: str, step: Step) -> str:
        """What stands in a key for what a step gives: the digest of that part of the samples, or the step's key."""
        known = self.samples(step) if step.kind == "samples" else {}
        return known.get(parameter.removesuffix("_samples"), step.key)

    # ---- the host's part

    def network(self, model: str, scheme: str, target: Target) -> str:
        """The chain of a scheme for a target; the id of the step that gives its network."""
        original = self.result.imported[model]
        samples = self.result.samples[model]
        network = floats = original
        path: list[str] = []
        for call in self.recipe.schemes[scheme]:
            before_quantize = call.kind == "transform"
            available = {
                "model": network,
                "original": original,
                "float_model": floats,
                "calibration_samples": samples,
                "evaluation_samples": samples,
            }
            wanted = needs(call.stage.function)
            if "statistics" in wanted:
                available["statistics"] = self.statistics(
                    model, network if before_quantize else floats, path
                )
            coordinates = (
                {"model": model} if before_quantize else {"model": model, "scheme": scheme}
            )
            stem = "/".join([model, *path] if before_quantize else [model, scheme])
            network = self.stage(f"{stem}/{call.name}", call, available, coordinates, target=target)
            if before_quantize:
                floats = network
                path = [*path, call.name]
        return network

    def statistics(self, model: str, network: str, path: Sequence[str]) -> str:
        call = self.recipe.calibrate
        samples = self.result.samples[model]
        available = {
            "model": network,
            "calibration_samples": samples,
            "original": self.result.imported[model],
        }
        return self.stage("/".join([model, *path, call.name]), call, available, {"model": model})

    def stage(
        self,
        name: str,
        call: Call,
        available: Mapping[str, str],
        coordinates: Mapping[str, str],
        **more: Any,
    ) -> str:
        wanted = needs(call.stage.function)
        given = {}
        for parameter in wanted:
            if parameter in available:
                given[parameter] = available[parameter]
            elif parameter not in BROUGHT and not more.get("fan_in"):
                known = f"there is {', '.join([*available, *BROUGHT])}"
                raise PluginError(
                    f"{call.kind} {call.name}: nothing gives its parameter '{parameter}'; {known}"
                )
        # of a deploy step they are facts of the row, and what is compiled is checked against the target
        facts = {"deploy": ("target", "platform"), "compile": ("target",)}.get(call.kind, ())
        unasked = {"target", "platform"} - {*wanted, *facts}
        more = {name: value for name, value in more.items() if name not in unasked}
        return self.add(name, call.kind, call, given, coordinates, **more)

    # ---- the float network's outputs, and what is expected of them

    def reference(self, model: str) -> str:
        given = {
            "model": self.result.imported[model],
            "evaluation_samples": self.result.samples[model],
        }
        return self.add(
            f"{model}/reference", REFERENCE.kind, Call(REFERENCE, {}), given, {"model": model}
        )

    def expect(self, model: str, measure: Call, expected: Mapping[str, Mapping[str, float]]) -> str:
        """The check of the float score, by the metrics of a measuring stage, before anything is quantized."""
        given = {
            "float_outputs": self.reference(model),
            "evaluation_samples": self.result.samples[model],
        }
        call = Call(EXPECT, {**scoring(measure), "expected": expected})
        return self.add(f"{model}/expect", EXPECT.kind, call, given, {"model": model})

    # ---- a device's part

    def on_device(self, device: DeviceInPlan) -> None:
        asked = {
            parameter for call in self.recipe.measure for parameter in needs(call.stage.function)
        }
        deployed: list[str] = []
        for model in self.recipe.models:
            if "device_samples" in asked:
                self.upload(device, model)
            for scheme in self.recipe.schemes:
                deployed += [
                    self.deploy(device, model, scheme, build) for build in self.recipe.builds
                ]
        for call in self.recipe.measure:
            if "deployments" in needs(call.stage.function):
                self.measure_all(call, device, deployed)
                continue
            for step in deployed:
                self.measure(call, device, self.result.steps[step])

    def upload(self, device: DeviceInPlan, model: str) -> None:
        given = {"evaluation_samples": self.result.samples[model]}
        own = "samples" in self.recipe.models[model].beside
        name = f"{device.name}/{model}/samples" if own else f"{device.name}/samples"
        step = self.add(name, "upload", None, given, {"device": device.name}, device=device.name)
        self.result.uploads[device.name, model] = step

    def deploy(self, device: DeviceInPlan, model: str, scheme: str, build: str) -> str:
        call = self.recipe.builds[build]
        label = f"{model}/{scheme}/{build}"
        where = {"model": model, "scheme": scheme, "build": build}
        target = target_of(
            device.capabilities, call.stage.demands, device.call.beside.get("target", {})
        )
        network = self.network(model, scheme, target)
        platform = platform_of(device.capabilities, call.name)
        # no check of what is compiled asks whether sums saturate: devices that differ in this alone share builds
        checked = (
            target if "target" in needs(call.stage.function) else replace(target, saturates=False)
        )
        compiled = self.stage(
            label, call, {"model": network}, where, target=checked, platform=platform
        )
        is_float = not self.recipe.schemes[scheme]
        at = {**where, "device": device.name}
        return self.stage(
            f"{label}@{device.name}",
            self.recipe.deploy,
            {"build": compiled},
            at,
            device=device.name,
            is_float=is_float,
            target=target,
            platform=platform,
        )

    def measure_all(self, call: Call, device: DeviceInPlan, deployed: Sequence[str]) -> None:
        """A measurement of all that was deployed, by one step: it goes on with what came."""
        at = {"device": device.name}
        runs = "device_samples" in needs(call.stage.function)
        own = [
            step for (name, _), step in self.result.uploads.items() if runs and name == device.name
        ]
        fan_in = (*dict.fromkeys(own), *deployed)
        self.stage(f"{device.name}/{call.name}", call, {}, at, device=device.name, fan_in=fan_in)

    def measure(self, call: Call, device: DeviceInPlan, deploy: Step) -> None:
        model = deploy.coordinates["model"]
        available = {
            "deployed": deploy.id,
            "build": deploy.needs["build"],
            "evaluation_samples": self.result.samples[model],
            "original": self.result.imported[model],
        }
        if (device.name, model) in self.result.uploads:
            available["device_samples"] = self.result.uploads[device.name, model]
        if "float_outputs" in needs(call.stage.function):
            available["float_outputs"] = self.reference(model)
        self.stage(
            f"{deploy.label}@{device.name}/{call.name}",
            call,
            available,
            deploy.coordinates,
            device=device.name,
            is_float=deploy.is_float,
        )
