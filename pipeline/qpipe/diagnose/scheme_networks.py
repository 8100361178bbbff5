"""What a diagnosis looks at: the networks of a scheme along its way to a device, as the engine made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from qpipe.engine import run as engine_run
from qpipe.engine import stage_results
from qpipe.engine.device_health import Health
from qpipe.engine.events import Listener
from qpipe.engine.plan import Plan, Step
from qpipe.engine.run import Session
from qpipe.engine.scheduler import Runner
from qpipe.errors import QpipeError, RecipeError, suggest
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Build, Measurement


@dataclass(frozen=True, eq=False)
class Case:
    """A scheme of a model, for a build on a device."""

    session: Session
    deploy: Step  # has its coordinates
    original: ir.Model
    transformed: ir.Model | None  # None where the scheme transforms nothing
    quantized: ir.Model
    build: Build
    samples: Samples  # for evaluation

    @property
    def float_model(self) -> ir.Model:
        """What was quantized."""
        return self.transformed or self.original

    @property
    def saturates(self) -> bool:
        """Whether the device sums u8 x s8 in 16 bits: x86 without VNNI, unless the build asks for exact sums."""
        options = self.build.manifest.get("options", {})
        is_exact = options.get("config", {}).get("session.x64quantprecision") == "1"
        target = self.deploy.target
        return (
            target is not None
            and target.saturates
            and self.build.manifest["runtime"] == "onnxruntime"
            and not is_exact
        )


def make_case(
    session: Session,
    store: Store,
    scheme: str,
    model: str | None,
    build: str | None,
    device: str,
    listen: Listener,
) -> Case:
    """Compute what is not cached of one scheme, up to its build; nothing is measured.

    RecipeError where the choice is none or several, or the scheme quantizes nothing; StageError where a step fails.
    """
    plan = engine_run.prepare(session, store, listen)
    deploy = _one(plan, {"scheme": scheme, "model": model, "build": build, "device": device})
    built = plan.steps[deploy.needs["build"]]
    quantized, floats = _chain(plan, plan.steps[built.needs["model"]])
    if quantized is floats:
        raise RecipeError(
            f"diagnose: scheme '{scheme}' quantizes nothing; give one that has a quantize stage"
        )
    with session.cache.kept(plan.results):
        workdir = session.request.db.parent / "plan"
        outcome = Runner(
            plan.only([built.id]), Health(), session.cache, workdir, listen, _nothing
        ).run()
        if outcome.errors:
            raise QpipeError(*(f"{step}: {reason}" for step, reason in outcome.errors.items()))
        imported = plan.steps[plan.imported[_model(deploy)]]
        sampled = plan.steps[plan.samples[_model(deploy)]]
        return Case(
            session,
            deploy,
            stage_results.read("import", _value(session, imported)),
            None
            if floats.id == imported.id
            else stage_results.read(floats.kind, _value(session, floats)),
            stage_results.read(quantized.kind, _value(session, quantized)),
            Build.read(_value(session, built)),
            stage_results.read("samples", _value(session, sampled))["evaluation"],
        )


def _one(plan: Plan, wanted: dict[str, str | None]) -> Step:
    left = [step for step in plan.steps.values() if step.kind == "deploy"]
    for name, value in wanted.items():
        known = list(dict.fromkeys(step.coordinates[name] for step in left))
        if value is None and len(known) > 1:
            raise RecipeError(
                f"diagnose: there are several of it; give --{name}: {', '.join(known)}"
            )
        left = [step for step in left if value in (None, step.coordinates[name])]
        if not left:
            raise RecipeError(f"diagnose: no {name} '{value}'; {suggest(str(value), known)}")
    return left[0]


def _chain(plan: Plan, network: Step) -> tuple[Step, Step]:
    """The step that gave the network, and that which gave the float one before all quantizing."""
    floats = network
    while floats.kind == "quantize":
        floats = plan.steps[floats.needs["model"]]
    return network, floats


def _model(deploy: Step) -> str:
    return deploy.coordinates["model"]


def _value(session: Session, step: Step) -> Path:
    return session.cache.folder(step.kind, step.key) / "value"


def _nothing(_step: Step, _measurements: Sequence[Measurement]) -> None:
    """Nothing is measured here."""
