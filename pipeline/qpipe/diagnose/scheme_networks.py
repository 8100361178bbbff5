"""The networks of a scheme on its way to a device, as the engine computed them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qpipe.engine import stage_results
from qpipe.engine.events import Listener
from qpipe.engine.plan import Plan, Step
from qpipe.engine.request import ResolvedRequest
from qpipe.engine.run import prepare_plan
from qpipe.engine.scheduler import compute
from qpipe.engine.sequences import write_chunks
from qpipe.errors import QpipeError, RecipeError, suggest
from qpipe.quant.network_inputs import states_of
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Build


@dataclass(frozen=True, eq=False)
class Case:
    """A scheme of a model, for a build on a device."""

    resolved: ResolvedRequest
    deploy: Step  # the step with its coordinates
    original: ir.Model
    transformed: ir.Model | None  # None where the scheme transforms nothing
    quantized: ir.Model
    build: Build
    samples: Samples  # for evaluation

    @property
    def float_model(self) -> ir.Model:
        """The network that was quantized."""
        return self.transformed or self.original


def make_case(
    resolved: ResolvedRequest,
    store: Store,
    *,
    scheme: str,
    model: str | None,
    build: str | None,
    device: str,
    listen: Listener,
) -> Case:
    """Compute what is not cached of one scheme, up to its build. Nothing is measured.

    Raise RecipeError where no or several rows fit, or the scheme quantizes nothing, and QpipeError
    where a step fails.
    """
    plan = prepare_plan(resolved, store, listen)
    coordinates = {"scheme": scheme, "model": model, "build": build, "device": device}
    deploy = _only_deploy_step(plan, coordinates)
    build_step = plan.steps[deploy.needs["build"]]
    quantized = plan.steps[build_step.needs["model"]]
    float_step = _float_step(plan, quantized)
    if quantized is float_step:
        fix = "give one that has a quantize stage"
        raise RecipeError(f"diagnose: scheme '{scheme}' quantizes nothing; {fix}")
    with resolved.cache.protect(plan.results):
        outcome = compute(plan.only([build_step.id]), resolved.cache, resolved.plan_folder, listen)
        if outcome.errors:
            raise QpipeError(*(f"{step}: {reason}" for step, reason in outcome.errors.items()))
        model_name = deploy.coordinates["model"]
        imported = plan.steps[plan.imported[model_name]]
        samples = plan.steps[plan.samples[model_name]]
        transformed = None
        if float_step.id != imported.id:
            transformed = _result(resolved, float_step)
        return Case(
            resolved=resolved,
            deploy=deploy,
            original=_result(resolved, imported),
            transformed=transformed,
            quantized=_result(resolved, quantized),
            build=_result(resolved, build_step),
            samples=_result(resolved, samples)["evaluation"],
        )


@contextmanager
def single_inferences(case: Case, indices: Sequence[int]) -> Iterator[Samples]:
    """Give these samples of a case as single inferences: sequences as their chunks."""
    with tempfile.TemporaryDirectory() as folder:
        if states_of(case.original):
            yield write_chunks(case.original, case.samples, Path(folder), _no_progress, indices)
        else:
            selected = [case.samples[index] for index in indices]
            yield Samples.write(Path(folder), selected, case.samples.preprocessing)


def _no_progress(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def _only_deploy_step(plan: Plan, coordinates: Mapping[str, str | None]) -> Step:
    """Return the deploy step with these coordinates; None stands for any, if there is only one."""
    steps = [step for step in plan.steps.values() if step.kind == "deploy"]
    for name, value in coordinates.items():
        values = list(dict.fromkeys(step.coordinates[name] for step in steps))
        if value is None:
            if len(values) > 1:
                reason = f"the scheme has several {name}s"
                raise RecipeError(f"diagnose: {reason}; give --{name}: {', '.join(values)}")
            continue
        steps = [step for step in steps if step.coordinates[name] == value]
        if not steps:
            raise RecipeError(f"diagnose: no {name} '{value}'; {suggest(value, values)}")
    return steps[0]


def _float_step(plan: Plan, quantized: Step) -> Step:
    """Return the step whose float network the quantize stages began with."""
    step = quantized
    while step.kind == "quantize":
        step = plan.steps[step.needs["model"]]
    return step


def _result(resolved: ResolvedRequest, step: Step) -> Any:
    """Return the cached result of a step."""
    return stage_results.read(step.kind, resolved.cache.value_folder(step.kind, step.key))
