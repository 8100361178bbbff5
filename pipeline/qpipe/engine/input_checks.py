"""What a recipe names, once it is read: whether any network is there, and fits the samples it is to be fed with."""

from __future__ import annotations

from qpipe.engine import stage_results
from qpipe.engine.float_reference import check_fit
from qpipe.engine.plan import Plan, Step
from qpipe.engine.scheduler import Outcome
from qpipe.errors import RecipeError, StageError
from qpipe.storage.cache import Cache


def check_readings(plan: Plan, read: Outcome, cache: Cache, *, all_of_them: bool = False) -> None:
    """RecipeError where no model is left that can be read and fits its samples, or (all_of_them) any is not."""
    wrong: dict[str, str] = {}  # model -> why
    for model in plan.imported:
        steps = [plan.steps[plan.samples[model]], plan.steps[plan.imported[model]]]
        failed = [step for step in steps if step.id in read.errors]
        reason = read.errors[failed[0].id] if failed else _misfit(steps[0], steps[1], cache)
        call = (failed or steps)[0].call
        if reason and call:
            wrong[model] = f"{call.where}: {reason}"
    if wrong and (all_of_them or wrong.keys() == plan.imported.keys()):
        raise RecipeError(*dict.fromkeys(wrong.values()))


def _misfit(samples: Step, imported: Step, cache: Cache) -> str | None:
    """Why the network cannot be fed with the samples; None where it can."""
    folders = [cache.folder(step.kind, step.key) / "value" for step in (samples, imported)]
    model = stage_results.read("import", folders[1])
    try:
        for part in stage_results.read("samples", folders[0]).values():
            check_fit(model, part)
    except StageError as error:
        return str(error)
    return None
