"""samples: what the network really sees."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qpipe import report
from qpipe.cli.display import display
from qpipe.cli.printing import print_json, print_table, print_text
from qpipe.engine import run as engine_run
from qpipe.engine import stage_results
from qpipe.engine.float_reference import float_outputs
from qpipe.engine.plan import Plan, Step
from qpipe.engine.run import HOME, Request, Session, open_session
from qpipe.errors import QpipeError
from qpipe.recipe.recipe import scoring
from qpipe.recipe.yaml_document import shown
from qpipe.report import Look, Subject
from qpipe.report.samples_page import cells, summary
from qpipe.samples.store import Samples
from qpipe.storage.results import Store
from qpipe.types import Preprocessing


def samples(asked: Request, out: Path | None, count: int, as_json: bool) -> None:
    """Write the page, print where it is and the statistics on it."""
    with display() as listener:
        session = open_session(asked)
        with Store(asked.db) as store:
            plan = engine_run.prepare(session, store, listener.event)
        with session.cache.kept(plan.results):
            subjects = [_subject(session, plan, model, count) for model in plan.imported]
    folder = out or HOME / "samples" / session.recipe.name
    found = report.write(folder, session.recipe.name, subjects)
    if as_json:
        print_json({"folder": str(folder), **found})
        return
    for model in found["models"]:
        _print_model(model, len(found["models"]) > 1)
    print_text(f"\nlook at: {shown(folder / report.PAGE)}")


def _print_model(model: Mapping[str, Any], several: bool) -> None:
    if several:
        print_text(f"\n{model['model']}")
    headings = ("input", "samples", "channel", "mean", "std", "min", "max", "at 0 or 255")
    print_table(headings, map(cells, model["statistics"]), right=headings[3:])
    for line in summary(model):
        print_text(line)
    for line in model["warnings"]:
        print_text(f"look: {line}")


def _subject(session: Session, plan: Plan, model: str, count: int) -> Subject:
    """A model with some of its samples, and what float makes of them."""
    sampled = plan.steps[plan.samples[model]]
    imported = plan.steps[plan.imported[model]]
    parts = stage_results.read("samples", _folder(session, sampled))
    postprocess = _postprocess(session)
    some: Samples = parts["evaluation"]
    inputs = [
        str(value.name)
        for value in stage_results.read("import", _folder(session, imported)).graph.inputs
    ]
    looks = [
        look
        for part, own in parts.items()
        for look in _looks(part, own, inputs, _folder(session, imported), postprocess, count)
    ]
    rate = sampled.call.options.get("rate") if sampled.call else None
    return Subject(
        model,
        _by_input(some, inputs),
        looks,
        some.classes,
        rate if isinstance(rate, int) else None,
        postprocess is not None,
        {part: len(own) for part, own in parts.items()},
    )


def _looks(
    part: str,
    own: Samples,
    inputs: list[str],
    model: Path,
    postprocess: Callable[[Any], Any] | None,
    count: int,
) -> list[Look]:
    """Some samples of a part, evenly spread: those of one class often lie together."""
    count = min(count, len(own))
    with tempfile.TemporaryDirectory() as folder:
        chosen = [own[i * len(own) // count] for i in range(count)]
        few = Samples.write(Path(folder), chosen, own.preprocessing, own.classes)
        outputs = float_outputs(stage_results.read("import", model), few, _quiet)
        return [
            _look(
                part,
                few,
                i,
                inputs,
                {name: array[i] for name, array in outputs.items()},
                postprocess,
            )
            for i in range(count)
        ]


def _look(
    part: str,
    few: Samples,
    i: int,
    inputs: list[str],
    outputs: Any,
    postprocess: Callable[[Any], Any] | None,
) -> Look:
    sample = few[i]
    fed = few.feeds(i, inputs)
    try:
        return Look(
            sample.id, part, fed, sample.target, postprocess(outputs) if postprocess else outputs
        )
    except Exception as error:  # noqa: BLE001  (foreign code: what it breaks on is what one wants to see here)
        reason = str(error) if isinstance(error, QpipeError) else f"{type(error).__name__}: {error}"
        return Look(
            sample.id, part, fed, sample.target, outputs, f"the postprocess broke: {reason}"
        )


def _by_input(own: Samples, inputs: list[str]) -> dict[str, Preprocessing]:
    """Where both have just one, the names need not agree."""
    if len(inputs) == 1 and len(own.preprocessing) == 1:
        return {inputs[0]: next(iter(own.preprocessing.values()))}
    return {name: own.preprocessing[name] for name in inputs}


def _postprocess(session: Session) -> Callable[[Any], Any] | None:
    """That of the first measuring stage that has one."""
    calls = [
        call for measure in session.recipe.measure if (call := scoring(measure)["postprocess"])
    ]
    if not calls:
        return None
    own = calls[0].resolved()
    stage = calls[0].stage
    return lambda outputs: stage.function(outputs, **own)


def _folder(session: Session, step: Step) -> Path:
    return session.cache.folder(step.kind, step.key) / "value"


def _quiet(done: float, total: float | None = None, unit: str = "") -> None:
    """Few samples are quick."""
