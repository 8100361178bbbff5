"""A recipe -> a graph of steps, each computed once however many schemes share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qpipe import keys
from qpipe.call import Call
from qpipe.errors import PluginError
from qpipe.options import needs
from qpipe.recipe import Recipe
from qpipe.types import Capabilities, Target

BROUGHT = ("progress", "workdir", "device", "target")  # what a step gets that no other step makes


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
    does not stop it."""

    id: str
    kind: str  # a stage kind, or what the engine does itself: reference (float outputs), upload (samples to a device)
    call: Call | None
    needs: Mapping[str, str]
    coordinates: Mapping[str, str]
    key: str
    fields: Mapping[str, Any]
    fan_in: Sequence[str] = ()
    device: str | None = None
    target: Target | None = None
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
        return [*dict.fromkeys([*self.needs.values(), *self.fan_in])]


@dataclass
class Plan:
    """Steps in an order in which each follows what it needs."""

    recipe: Recipe
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def samples(self) -> Step:
        """The step that makes the samples."""
        return next(step for step in self.steps.values() if step.kind == "samples")

    @property
    def goals(self) -> list[str]:
        """What it is all for: the measurements, or all steps where there is none."""
        return [step.id for step in self.steps.values() if step.kind == "measure"] or list(self.steps)

    def alone(self, step: str) -> Plan:
        """A plan of one step that needs no other."""
        return Plan(self.recipe, {step: self.steps[step]})

    def drop(self, devices: Collection[str]) -> None:
        """Leave out what belongs to devices that cannot be reached; what only they needed is never looked at."""
        self.steps = {id_: step for id_, step in self.steps.items() if step.device not in devices}


def target_of(capabilities: Capabilities | None, runtime: str) -> Target:
    """What quantization and compile must respect there; an unknown device counts as a current x86 one."""
    if capabilities is None:
        return Target(runtime=runtime)
    opset, ir_version = _loads(capabilities.runtimes.get("onnxruntime", ""))
    x86 = capabilities.arch in ("x86_64", "AMD64")
    return Target(
        runtime=runtime,
        arch=capabilities.arch,
        max_opset=opset,
        max_ir_version=ir_version,
        saturates=x86 and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(capabilities.features),
    )


def _loads(version: str) -> tuple[int, int]:
    """The newest opset and IR version that an ONNX Runtime loads (its table of releases); old ones for a stranger."""
    table = {32: (28, 14), 23: (24, 12), 22: (23, 11), 21: (22, 10), 20: (21, 10), 19: (21, 10), 18: (21, 10)}
    table |= {17: (20, 9), 16: (19, 9)}
    parts = version.split(".")
    if len(parts) < 2 or not parts[1].isdigit():
        return Target.max_opset, Target.max_ir_version
    known = [minor for minor in table if minor <= int(parts[1])]
    return table[max(known)] if known else (17, 8)


def make(recipe: Recipe, devices: Sequence[DeviceInPlan], samples: SampleDigests = lambda _: {}) -> Plan:
    """Expand the recipe for these devices. `samples` tells the digests of calibration and evaluation samples where they
    are known: then a change of one part is no change for what needs only the other, nor is a stage that gives the same.
    """
    return _Planner(recipe, devices, samples).plan()


class _Planner:
    def __init__(self, recipe: Recipe, devices: Sequence[DeviceInPlan], samples: SampleDigests) -> None:
        self.recipe, self.devices, self.samples = recipe, devices, samples
        self.result = Plan(recipe)
        self.by_meaning: dict[Any, str] = {}
        self.imported: dict[str, str] = {}  # model -> its import step

    def plan(self) -> Plan:
        samples = self.add("samples", "samples", self.recipe.samples, {})
        for model, call in self.recipe.models.items():
            self.imported[model] = self.add(f"{model}/import", "import", call, {}, {"model": model})
        for device in self.devices:
            self.on_device(device, samples)
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
        own = name if kind in ("import", "deploy", "measure") else ""  # two schemes with one build are still two rows
        meaning = (kind, keys.key(step_fields), more.get("device"), own)
        if meaning in self.by_meaning:
            return self.by_meaning[meaning]
        unique = name
        while unique in self.result.steps:
            stem, _, number = unique.rpartition("~")
            unique = f"{stem}~{int(number) + 1}" if stem else f"{name}~2"
        step = Step(unique, kind, call, given, coordinates or {}, keys.key(step_fields), step_fields, **more)
        self.result.steps[unique] = step
        self.by_meaning[meaning] = unique
        return unique

    def fields(self, kind: str, call: Call | None, given: Mapping[str, str], **more: Any) -> keys.Fields:
        """All that can change the step's result."""
        steps = self.result.steps
        found: keys.Fields = keys.of_call(call) if call else keys.of_engine(kind)
        found["needs"] = {parameter: self.content(parameter, steps[step]) for parameter, step in given.items()}
        found["fan_in"] = {step: steps[step].key for step in more.get("fan_in", ())}
        if kind not in ("deploy", "upload"):
            found["host"] = keys.of_host()
        if more.get("target"):
            found["target"] = asdict(more["target"])
        if more.get("device"):
            device = next(d for d in self.devices if d.name == more["device"])
            found["device"] = device.capabilities.fingerprint if device.capabilities else device.name
            found["driver"] = keys.package(device.call.stage)
        return found

    def content(self, parameter: str, step: Step) -> str:
        """What stands in a key for what a step gives: the digest of that part of the samples, or the step's key."""
        known = self.samples(step) if step.kind == "samples" else {}
        return known.get(parameter.removesuffix("_samples"), step.key)

    # ---- the host's part

    def network(self, model: str, scheme: str, samples: str, target: Target) -> str:
        """The chain of a scheme for a target; the id of the step that gives its network."""
        original = self.imported[model]
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
                available["statistics"] = self.statistics(model, network if before_quantize else floats, samples, path)
            coordinates = {"model": model} if before_quantize else {"model": model, "scheme": scheme}
            stem = "/".join([model, *path] if before_quantize else [model, scheme])
            network = self.stage(f"{stem}/{call.name}", call, available, coordinates, target)
            if before_quantize:
                floats = network
                path = [*path, call.name]
        return network

    def statistics(self, model: str, network: str, samples: str, path: Sequence[str]) -> str:
        call = self.recipe.calibrate
        available = {"model": network, "calibration_samples": samples, "original": self.imported[model]}
        return self.stage("/".join([model, *path, call.name]), call, available, {"model": model}, None)

    def stage(
        self,
        name: str,
        call: Call,
        available: Mapping[str, str],
        coordinates: Mapping[str, str],
        target: Target | None,
        **more: Any,
    ) -> str:
        wanted = needs(call.stage.function)
        given = {}
        for parameter in wanted:
            if parameter in available:
                given[parameter] = available[parameter]
            elif parameter not in BROUGHT and parameter != "deployments":
                known = f"there is {', '.join([*available, *BROUGHT])}"
                raise PluginError(f"{call.kind} {call.name}: nothing gives its parameter '{parameter}'; {known}")
        own_target = target if "target" in wanted else None
        return self.add(name, call.kind, call, given, coordinates, target=own_target, **more)

    # ---- a device's part

    def on_device(self, device: DeviceInPlan, samples: str) -> None:
        name = device.name
        at = {"device": name}
        asked = {parameter for call in self.recipe.measure for parameter in needs(call.stage.function)}
        upload = reference = ""
        if "device_samples" in asked:
            upload = self.add(f"{name}/samples", "upload", None, {"evaluation_samples": samples}, at, device=name)
        deployed: dict[str, tuple[str, str, Mapping[str, str], bool]] = {}
        for model in self.recipe.models:
            if "float_outputs" in asked:
                reference = self.reference(model, samples)
            for scheme, chain in self.recipe.schemes.items():
                for build, call in self.recipe.builds.items():
                    where = {"model": model, "scheme": scheme, "build": build}
                    target = target_of(device.capabilities, call.name)
                    network = self.network(model, scheme, samples, target)
                    compiled = self.stage(f"{model}/{scheme}/{build}", call, {"model": network}, where, target)
                    label = f"{model}/{scheme}/{build}"
                    step = self.stage(
                        f"{label}@{name}", self.recipe.deploy, {"build": compiled}, {**where, **at}, None, device=name,
                        is_float=not chain,
                    )  # fmt: skip
                    deployed[step] = (compiled, reference, {**where, **at}, not chain)
        for call in self.recipe.measure:
            self.measure(call, device, deployed, upload, samples)

    def reference(self, model: str, samples: str) -> str:
        given = {"model": self.imported[model], "evaluation_samples": samples}
        return self.add(f"{model}/reference", "reference", None, given, {"model": model})

    def measure(
        self,
        call: Call,
        device: DeviceInPlan,
        deployed: Mapping[str, tuple[str, str, Mapping[str, str], bool]],
        upload: str,
        samples: str,
    ) -> None:
        if "deployments" in needs(call.stage.function):
            available = {"device_samples": upload, "evaluation_samples": samples}
            self.stage(
                f"{device.name}/{call.name}", call, available, {"device": device.name}, None,
                device=device.name, fan_in=tuple(deployed),
            )  # fmt: skip
            return
        for step, (build, reference, coordinates, is_float) in deployed.items():
            available = {
                "deployed": step, "build": build, "device_samples": upload, "evaluation_samples": samples,
                "float_outputs": reference, "original": self.imported[coordinates["model"]],
            }  # fmt: skip
            label = "/".join(coordinates[c] for c in ("model", "scheme", "build"))
            self.stage(
                f"{label}@{device.name}/{call.name}", call, available, coordinates, None,
                device=device.name, is_float=is_float,
            )  # fmt: skip
