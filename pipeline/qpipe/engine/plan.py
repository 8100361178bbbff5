"""The graph of steps that a recipe expands to, each computed once however many schemes share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qpipe.engine import cache_keys
from qpipe.engine.code_digest import CodeDigests
from qpipe.engine.engine_stages import CHUNKS, EXPECT, REFERENCE
from qpipe.engine.targets import platform_of, target_of
from qpipe.errors import PluginError
from qpipe.recipe.recipe import ExpectedScore, Recipe, scoring
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import needs
from qpipe.storage.cache import Cache
from qpipe.types import Capabilities, Platform, Target

READING_KINDS = ("samples", "import")  # kinds that read what the recipe names
# parameters of a stage that the engine fills in by itself
ENGINE_PARAMETERS = ("progress", "workdir", "device", "target", "platform")


@dataclass(frozen=True)
class DeviceInPlan:
    """A device as the plan knows it: how to reach it, and its capabilities at its last check."""

    name: str
    call: Call
    capabilities: Capabilities | None = None  # None where it was never checked


@dataclass(frozen=True)
class Step:
    """A stage's place in a run.

    `needs` maps parameters to the steps that give them. `fan_in` are steps whose failure does not
    stop this one. `after` are steps that give it nothing and must have succeeded.
    """

    id: str
    kind: str  # of a stage; or reference, expect, upload (of samples): what the engine does itself
    call: Call | None
    needs: Mapping[str, str]
    coordinates: Mapping[str, str]
    key: str
    fields: Mapping[str, Any]  # what the key is made of
    fan_in: Sequence[str] = ()
    after: Sequence[str] = ()
    device: str | None = None
    target: Target | None = None
    platform: Platform | None = None
    is_float: bool = False

    @property
    def cacheable(self) -> bool:
        """Whether the result holds for as long as the key does."""
        return self.kind not in ("deploy", "upload") and not self.volatile

    @property
    def volatile(self) -> bool:
        """Whether it measures the moment, as latency does."""
        if self.kind != "measure" or self.call is None:
            return False
        return not self.call.stage.cached

    @property
    def stage_name(self) -> str:
        """The name of the stage; the kind where the engine does the step itself."""
        return self.call.name if self.call else self.kind

    @property
    def label(self) -> str:
        """The name of its row: model/scheme/build."""
        return "/".join(self.coordinates[part] for part in ("model", "scheme", "build"))

    @property
    def dependencies(self) -> list[str]:
        """All steps that it waits for."""
        unique = dict.fromkeys([*self.needs.values(), *self.fan_in, *self.after])
        return list(unique)

    def result_folder(self, cache: Cache) -> Path:
        """Return the folder of its result in the cache, whether it is there or not."""
        return cache.value_folder(self.kind, self.key)


@dataclass
class Plan:
    """Steps in an order in which each follows what it needs."""

    recipe: Recipe
    steps: dict[str, Step] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)  # model -> its samples step
    imported: dict[str, str] = field(default_factory=dict)  # model -> its import step
    # device and model -> the step that sends the model's samples there
    uploads: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def reading_steps(self) -> list[str]:
        """The steps that read what the recipe names: samples and networks."""
        unique = dict.fromkeys([*self.samples.values(), *self.imported.values()])
        return list(unique)

    @property
    def goals(self) -> list[str]:
        """The steps that the run is for.

        These are the measurements and the checks of float scores; all steps where there is none.
        """
        goals = [step.id for step in self.steps.values() if step.kind in ("measure", EXPECT.kind)]
        return goals or list(self.steps)

    @property
    def results(self) -> list[tuple[str, str]]:
        """Kind and key of every result that may be in the cache, or is put there."""
        return [(step.kind, step.key) for step in self.steps.values() if step.cacheable]

    @property
    def missing_modules(self) -> list[str]:
        """What stages of the plan need on the host and lack there, a line for each."""
        calls = {id(step.call): step.call for step in self.steps.values() if step.call is not None}
        lines = [
            f"{call.where}: {call.kind} {call.name}: {missing}"
            for call in calls.values()
            for missing in call.stage.missing_modules()
        ]
        return list(dict.fromkeys(lines))

    def only(self, goals: Collection[str]) -> Plan:
        """Return the plan of these steps and of what they are made from."""
        included: set[str] = set()
        pending = list(goals)
        while pending:
            step_id = pending.pop()
            if step_id not in included:
                included.add(step_id)
                step = self.steps[step_id]
                pending += [*step.needs.values(), *step.fan_in]
        steps = {step_id: step for step_id, step in self.steps.items() if step_id in included}
        return Plan(self.recipe, steps, self.samples, self.imported, self.uploads)

    def drop_devices(self, devices: Collection[str]) -> None:
        """Leave out the steps on these devices; what only they need is no goal and is not run."""
        self.steps = {
            step_id: step for step_id, step in self.steps.items() if step.device not in devices
        }


# the digests of the calibration and the evaluation samples of a step, where they are known
SampleDigests = Callable[[Step], Mapping[str, str]]


def make_plan(
    recipe: Recipe,
    devices: Sequence[DeviceInPlan],
    sample_digests: SampleDigests = lambda _: {},
) -> Plan:
    """Expand a recipe for these devices.

    Where `sample_digests` knows the samples, keys are made of their digests: then a change of one
    part does not concern what needs only the other, nor does a stage that gives the same samples.
    """
    return _Planner(recipe, devices, sample_digests).make_plan()


@dataclass(frozen=True)
class _Setting:
    """Where a step runs and for what, besides its stage and what that needs."""

    device: str | None = None
    target: Target | None = None
    platform: Platform | None = None
    is_float: bool = False
    fan_in: tuple[str, ...] = ()


_NO_SETTING = _Setting()


class _Planner:
    """A plan in the making."""

    def __init__(
        self, recipe: Recipe, devices: Sequence[DeviceInPlan], sample_digests: SampleDigests
    ) -> None:
        self.recipe = recipe
        self.devices = {device.name: device for device in devices}
        self.sample_digests = sample_digests
        self.plan = Plan(recipe)
        self.code = CodeDigests()
        self.step_by_meaning: dict[tuple[object, ...], str] = {}
        self.gates: dict[str, tuple[str, ...]] = {}  # model -> steps that check its float score

    def make_plan(self) -> Plan:
        for model, call in self.recipe.models.items():
            own_samples: Call | None = call.beside.get("samples")
            name = f"{model}/samples" if own_samples else "samples"
            samples_call = own_samples or self.recipe.samples
            self.plan.samples[model] = self.add_step(
                name, kind="samples", call=samples_call, step_needs={}, coordinates={}
            )
            self.plan.imported[model] = self.add_step(
                f"{model}/import",
                kind="import",
                call=call,
                step_needs={},
                coordinates={"model": model},
            )
        for model in self.recipe.models:
            gates = []
            for measure, expected in self.recipe.expected(model):
                gates.append(self.add_expect(model, measure, expected))
            self.gates[model] = tuple(gates)
        for device in self.devices.values():
            self.add_device(device)
        return self.plan

    # ---- steps

    def add_step(
        self,
        name: str,
        *,
        kind: str,
        call: Call | None,
        step_needs: Mapping[str, str],
        coordinates: Mapping[str, str],
        setting: _Setting = _NO_SETTING,
    ) -> str:
        """Add a step unless an equal one is there; return the id of either."""
        fields = self.key_fields(kind, call, step_needs, setting)
        key = cache_keys.key(fields)
        gates: tuple[str, ...] = ()
        if kind not in READING_KINDS:
            gates = self.gates.get(coordinates.get("model", ""), ())
        # two rows stay two, even where two schemes have one build
        row = name if kind in ("import", "deploy", "measure") else ""
        meaning = (kind, key, setting.device, row, gates)
        if meaning in self.step_by_meaning:
            return self.step_by_meaning[meaning]
        step_id = self.unique_id(name)
        self.plan.steps[step_id] = Step(
            step_id,
            kind,
            call,
            step_needs,
            coordinates,
            key,
            fields,
            after=gates,
            fan_in=setting.fan_in,
            device=setting.device,
            target=setting.target,
            platform=setting.platform,
            is_float=setting.is_float,
        )
        self.step_by_meaning[meaning] = step_id
        return step_id

    def unique_id(self, name: str) -> str:
        """Return the name, with ~2, ~3 ... where steps of that name are there already."""
        if name not in self.plan.steps:
            return name
        number = 2
        while f"{name}~{number}" in self.plan.steps:
            number += 1
        return f"{name}~{number}"

    def key_fields(
        self, kind: str, call: Call | None, step_needs: Mapping[str, str], setting: _Setting
    ) -> cache_keys.Fields:
        """Return everything that can change the step's result."""
        steps = self.plan.steps
        fields = cache_keys.of_call(call, self.code) if call else cache_keys.of_engine(kind)
        fields["needs"] = {
            parameter: self.content_digest(parameter, steps[need])
            for parameter, need in step_needs.items()
        }
        fields["fan_in"] = {need: steps[need].key for need in setting.fan_in}
        if kind not in ("deploy", "upload"):
            fields["host"] = cache_keys.of_host(call.stage if call else None)
        if setting.target:
            fields["target"] = asdict(setting.target)
        if setting.platform:
            fields["platform"] = asdict(setting.platform)
        if setting.device:
            device = self.devices[setting.device]
            fields["device"] = device.name
            if device.capabilities:
                fields["device"] = device.capabilities.fingerprint
            fields["driver"] = self.code.of_driver(device.call.stage)
        return fields

    def content_digest(self, parameter: str, step: Step) -> str:
        """Return what a key contains for a need: the digest of the samples, or the step's key."""
        if step.kind != "samples":
            return step.key
        part = parameter.removesuffix("_samples")
        return self.sample_digests(step).get(part, step.key)

    def add_stage(
        self,
        name: str,
        call: Call,
        available: Mapping[str, str],
        coordinates: Mapping[str, str],
        setting: _Setting = _NO_SETTING,
    ) -> str:
        """Add the step of a stage, which takes of the available steps those that it names."""
        parameters = needs(call.stage.function)
        step_needs = {}
        for parameter in parameters:
            if parameter in available:
                step_needs[parameter] = available[parameter]
            elif parameter not in ENGINE_PARAMETERS and not setting.fan_in:
                valid = ", ".join([*available, *ENGINE_PARAMETERS])
                raise PluginError(
                    f"{call.kind} {call.name}: nothing gives its parameter '{parameter}'; "
                    f"there is {valid}"
                )
        if not self.depends_on("target", kind=call.kind, parameters=parameters):
            setting = replace(setting, target=None)
        if not self.depends_on("platform", kind=call.kind, parameters=parameters):
            setting = replace(setting, platform=None)
        return self.add_step(
            name,
            kind=call.kind,
            call=call,
            step_needs=step_needs,
            coordinates=coordinates,
            setting=setting,
        )

    def depends_on(self, name: str, *, kind: str, parameters: Sequence[str]) -> bool:
        """Return whether a step has a target or a platform: where its stage asks for it, mostly.

        Of a deploy step both are facts of the row. What is compiled is checked against the target.
        """
        if name in parameters or kind == "deploy":
            return True
        return kind == "compile" and name == "target"

    # ---- networks, on the host

    def add_network(self, *, model: str, scheme: str, target: Target) -> str:
        """Add the chain of a scheme for a target; return the step that gives its network."""
        original = self.plan.imported[model]
        samples = self.plan.samples[model]
        network = original
        float_network = original
        transforms: list[str] = []
        for call in self.recipe.schemes[scheme]:
            is_transform = call.kind == "transform"
            available = {
                "model": network,
                "original": original,
                "float_model": float_network,
                "calibration_samples": self.add_calibration_samples(model),
                "evaluation_samples": samples,
            }
            if "statistics" in needs(call.stage.function):
                calibrated = network if is_transform else float_network
                available["statistics"] = self.add_statistics(
                    model=model, network=calibrated, transforms=transforms
                )
            # schemes with the same transforms share them
            coordinates = {"model": model} if is_transform else {"model": model, "scheme": scheme}
            path = [model, *transforms] if is_transform else [model, scheme]
            name = "/".join([*path, call.name])
            network = self.add_stage(name, call, available, coordinates, _Setting(target=target))
            if is_transform:
                float_network = network
                transforms.append(call.name)
        return network

    def add_statistics(self, *, model: str, network: str, transforms: Sequence[str]) -> str:
        call = self.recipe.calibrate
        available = {
            "model": network,
            "calibration_samples": self.add_calibration_samples(model),
            "original": self.plan.imported[model],
        }
        name = "/".join([model, *transforms, call.name])
        return self.add_stage(name, call, available, {"model": model})

    def add_calibration_samples(self, model: str) -> str:
        """Return the step that gives the calibration samples; of a network with states, chunks."""
        samples = self.plan.samples[model]
        if not self.recipe.models[model].options.get("states"):
            return samples
        return self.add_step(
            f"{model}/chunks",
            kind=CHUNKS.kind,
            call=Call(CHUNKS, {}),
            step_needs={"model": self.plan.imported[model], "calibration_samples": samples},
            coordinates={"model": model},
        )

    def add_reference(self, model: str) -> str:
        """Add the step that computes the float network's outputs."""
        step_needs = {
            "model": self.plan.imported[model],
            "evaluation_samples": self.plan.samples[model],
        }
        return self.add_step(
            f"{model}/reference",
            kind=REFERENCE.kind,
            call=Call(REFERENCE, {}),
            step_needs=step_needs,
            coordinates={"model": model},
        )

    def add_expect(self, model: str, measure: Call, expected: Mapping[str, ExpectedScore]) -> str:
        """Add the check of the float score by a measuring stage's metrics.

        It comes before anything is quantized.
        """
        step_needs = {
            "float_outputs": self.add_reference(model),
            "evaluation_samples": self.plan.samples[model],
        }
        return self.add_step(
            f"{model}/expect",
            kind=EXPECT.kind,
            call=Call(EXPECT, {**scoring(measure), "expected": expected}),
            step_needs=step_needs,
            coordinates={"model": model},
        )

    # ---- builds and measurements, on a device

    def add_device(self, device: DeviceInPlan) -> None:
        deploys: list[str] = []
        for model in self.recipe.models:
            if any("device_samples" in needs(call.stage.function) for call in self.recipe.measure):
                self.add_upload(device, model)
            for scheme in self.recipe.schemes:
                for build in self.recipe.builds:
                    deploys.append(self.add_deploy(device, model=model, scheme=scheme, build=build))
        for call in self.recipe.measure:
            if "deployments" in needs(call.stage.function):
                self.add_fan_in_measure(call, device, deploys)
            else:
                for deploy in deploys:
                    self.add_measure(call, device, self.plan.steps[deploy])

    def add_upload(self, device: DeviceInPlan, model: str) -> None:
        has_own_samples = "samples" in self.recipe.models[model].beside
        name = f"{device.name}/{model}/samples" if has_own_samples else f"{device.name}/samples"
        upload = self.add_step(
            name,
            kind="upload",
            call=None,
            step_needs={"evaluation_samples": self.plan.samples[model]},
            coordinates={"device": device.name},
            setting=_Setting(device=device.name),
        )
        self.plan.uploads[device.name, model] = upload

    def add_deploy(self, device: DeviceInPlan, *, model: str, scheme: str, build: str) -> str:
        call = self.recipe.builds[build]
        label = f"{model}/{scheme}/{build}"
        coordinates = {"model": model, "scheme": scheme, "build": build}
        device_demands = device.call.beside.get("target", {})
        target = target_of(device.capabilities, call.stage.demands, device_demands)
        platform = platform_of(device.capabilities, call.name)
        network = self.add_network(model=model, scheme=scheme, target=target)
        is_float = not self.recipe.schemes[scheme]
        # a float network has no sums that saturate: devices that differ in this alone share it
        compile_target = target
        if is_float and "target" not in needs(call.stage.function):
            compile_target = replace(target, saturates=False)
        compiled = self.add_stage(
            label,
            call,
            {"model": network},
            coordinates,
            _Setting(target=compile_target, platform=platform),
        )
        setting = _Setting(
            device=device.name,
            target=target,
            platform=platform,
            is_float=is_float,
        )
        return self.add_stage(
            f"{label}@{device.name}",
            self.recipe.deploy,
            {"build": compiled},
            {**coordinates, "device": device.name},
            setting,
        )

    def add_fan_in_measure(self, call: Call, device: DeviceInPlan, deploys: Sequence[str]) -> None:
        """Add one measuring step for all that is deployed; it goes on with what was deployed."""
        uploads: list[str] = []
        if "device_samples" in needs(call.stage.function):
            for (device_name, _), upload in self.plan.uploads.items():
                if device_name == device.name and upload not in uploads:
                    uploads.append(upload)
        setting = _Setting(device=device.name, fan_in=(*uploads, *deploys))
        self.add_stage(f"{device.name}/{call.name}", call, {}, {"device": device.name}, setting)

    def add_measure(self, call: Call, device: DeviceInPlan, deploy: Step) -> None:
        model = deploy.coordinates["model"]
        available = {
            "deployed": deploy.id,
            "build": deploy.needs["build"],
            "evaluation_samples": self.plan.samples[model],
            "original": self.plan.imported[model],
        }
        if (device.name, model) in self.plan.uploads:
            available["device_samples"] = self.plan.uploads[device.name, model]
        if "float_outputs" in needs(call.stage.function):
            available["float_outputs"] = self.add_reference(model)
        setting = _Setting(device=device.name, is_float=deploy.is_float)
        name = f"{deploy.label}@{device.name}/{call.name}"
        self.add_stage(name, call, available, deploy.coordinates, setting)
