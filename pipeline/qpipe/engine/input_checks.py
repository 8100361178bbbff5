"""Whether the networks of a recipe, once they are read, fit their samples and their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qpipe.engine import cache_keys, stage_results, step_log
from qpipe.engine.constant_inputs import describe_constant_inputs
from qpipe.engine.engine_stages import EXACTNESS
from qpipe.engine.float_reference import check_fit
from qpipe.engine.float_scores import ScoringStage
from qpipe.engine.host_step import ResultFolder, StepInputs
from qpipe.engine.outcome import Outcome
from qpipe.engine.plan import Plan, Step
from qpipe.engine.scoring_check import SAMPLE_COUNT, check_scoring
from qpipe.engine.worker import StepRequest, run_in_worker
from qpipe.errors import RecipeError, StageError
from qpipe.storage.cache import Cache

SCORING = "scoring"  # the kind of the entries in the cache that say that this check was passed


def check_inputs(
    plan: Plan,
    outcome: Outcome,
    cache: Cache,
    workdir: Path,
    scoring: Sequence[ScoringStage] = (),
    *,
    every_model: bool = False,
) -> None:
    """Raise RecipeError where no model can be used, or with `every_model` where any cannot.

    A model can be used where its network and its samples were read and fit each other, the network
    computes what its file does, and the scoring stages can score it. `outcome` is that of the steps
    that read them; the step of a network that fails one of the last two checks fails there. Logs
    go to `workdir`.
    """
    problems: dict[str, str] = {}  # model -> where and why
    for model in plan.imported:
        problem = _problem_of(model, plan, outcome, cache, workdir, is_scored=bool(scoring))
        if problem is None:
            problem = _scoring_problem(model, plan, outcome, cache, scoring)
        if problem:
            problems[model] = problem
    if problems and (every_model or problems.keys() == plan.imported.keys()):
        unique_lines = dict.fromkeys(problems.values())
        raise RecipeError(*unique_lines)


def input_notes(plan: Plan, cache: Cache) -> list[str]:
    """Return what users should know of the samples before networks are calibrated on them.

    The samples were read.
    """
    notes: list[str] = []
    for name in dict.fromkeys(plan.samples.values()):
        step = plan.steps[name]
        if cache.has(step.kind, step.key):
            parts = stage_results.read("samples", step.result_folder(cache))
            notes += [f"{name}: {note}" for note in describe_constant_inputs(parts["calibration"])]
    return notes


def _problem_of(
    model: str, plan: Plan, outcome: Outcome, cache: Cache, workdir: Path, *, is_scored: bool
) -> str | None:
    samples = plan.steps[plan.samples[model]]
    network = plan.steps[plan.imported[model]]
    for step in (samples, network):
        if step.id in outcome.errors:
            return _at_its_line(step, outcome.errors[step.id])
    misfit = _misfit(samples, network, cache)
    if misfit is not None:
        return _at_its_line(samples, misfit)
    try:
        _try_network(plan, samples, network, cache, workdir, count=SAMPLE_COUNT * is_scored)
    except StageError as error:
        outcome.add_failure(network.id, error)
        return _at_its_line(network, str(error))
    return None


def _at_its_line(step: Step, reason: str) -> str:
    assert step.call is not None  # samples and networks are read by stages
    return f"{step.call.where}: {reason}"


def _misfit(samples: Step, network: Step, cache: Cache) -> str | None:
    """Return why the network cannot be fed with the samples; None where it can."""
    model = stage_results.read("import", network.result_folder(cache))
    parts = stage_results.read("samples", samples.result_folder(cache))
    try:
        for part in parts.values():
            check_fit(model, part)
    except StageError as error:
        return str(error)
    return None


def _trial_key(samples: Step, network: Step, count: int) -> str:
    return cache_keys.key(
        {
            **cache_keys.of_engine(EXACTNESS.kind),
            **cache_keys.of_host(),
            "network": network.key,
            "samples": samples.key,
            "count": count,
        }
    )


def _try_network(
    plan: Plan, samples: Step, network: Step, cache: Cache, workdir: Path, *, count: int
) -> None:
    """Raise StageError where the network does not compute what the file it was read from does.

    The cache keeps that it does, with the outputs on `count` samples. The network runs in a process
    of its own, as a runtime may crash.
    """
    folder = network.result_folder(cache)
    key = _trial_key(samples, network, count)
    is_needed = count > 0 or stage_results.given_file(folder) is not None
    if not is_needed or cache.get(EXACTNESS.kind, key) is not None:
        return
    sample_results = ResultFolder(samples.kind, samples.result_folder(cache))
    results = {
        "model": ResultFolder(network.kind, folder),
        "given": ResultFolder(stage_results.GIVEN_KIND, folder),
        "calibration_samples": sample_results,
        "evaluation_samples": sample_results,
    }
    log_folder = step_log.step_folder(workdir, f"{network.id}/{EXACTNESS.kind}")
    log_folder.mkdir(parents=True, exist_ok=True)
    with cache.put(EXACTNESS.kind, key) as out:
        request = StepRequest(
            step=network.id,
            kind=EXACTNESS.kind,
            stage=EXACTNESS.name,
            options={"count": count},
            inputs=StepInputs(results),
            out=out,
            log=log_folder / step_log.NAME,
            plugins=plan.recipe.plugins,
        )
        run_in_worker(request, lambda *_: None, lambda: False)


def _scoring_problem(
    model: str, plan: Plan, outcome: Outcome, cache: Cache, scoring: Sequence[ScoringStage]
) -> str | None:
    """Return why a stage cannot score the network of a model; None where all can."""
    samples = plan.steps[plan.samples[model]]
    network = plan.steps[plan.imported[model]]
    for stage in scoring:
        try:
            _check_scoring(stage, samples, network, cache)
        except StageError as error:
            outcome.add_failure(network.id, error)
            return f"{stage.call.where}: {error}"
    return None


def _check_scoring(stage: ScoringStage, samples: Step, network: Step, cache: Cache) -> None:
    """Raise StageError where a stage cannot score the network. The cache keeps that it can."""
    key = cache_keys.key(
        {
            **cache_keys.of_engine(SCORING),
            **cache_keys.of_host(),
            "stage": cache_keys.of_call(stage.call),
            "network": network.key,
            "samples": samples.key,
        }
    )
    if cache.get(SCORING, key) is not None:
        return
    model = stage_results.read("import", network.result_folder(cache))
    parts = stage_results.read("samples", samples.result_folder(cache))
    trial_key = _trial_key(samples, network, SAMPLE_COUNT)
    outputs = stage_results.read(EXACTNESS.kind, cache.value_folder(EXACTNESS.kind, trial_key))
    with cache.put(SCORING, key):
        check_scoring(stage, model, parts["evaluation"], outputs)
