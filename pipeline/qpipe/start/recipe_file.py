"""A new recipe in its file: written aside, loaded and tried, then put in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.recipe import recipe
from qpipe.start.feeding_choice import FeedingChoice, choose_feeding, with_feeding
from qpipe.start.recipe_text import Draft, recipe_text
from qpipe.start.scalings import Preferences
from qpipe.start.trial_run import Trial, try_recipe, with_eight_bits


def write_and_try(
    draft: Draft,
    model: ir.Model,
    preferences: Preferences,
    notify: Callable[[str], None],
) -> tuple[Draft, Trial, FeedingChoice | None]:
    """Write the recipe aside, load and try it, then rename it.

    Where accuracy cannot be scored as drafted, a simpler draft is tried. Where it can be scored
    against labels, they choose how pictures are fed.
    """
    aside = draft.file.with_name(f".{draft.file.name}.{os.getpid()}")
    try:
        while True:
            loaded = _write(draft, aside)
            trial = try_recipe(loaded, model)
            simpler = draft.simplified(trial.unscored) if trial.unscored else None
            if simpler is None:
                break
            draft = simpler
        choice = None
        if trial.scores:
            choice = choose_feeding(draft, loaded, model, preferences, notify)
        if choice is not None:
            draft = with_feeding(draft, choice)
            loaded = _write(draft, aside)
        notify("trying 8 bits on a few samples")
        trial = with_eight_bits(trial, loaded, model)
        if trial.eight_bits is not None and not trial.eight_bits.is_bearable:
            draft = replace(draft, unbearable=str(trial.eight_bits))
            _write(draft, aside)
        aside.replace(draft.file)
    except OSError as error:
        reason = error.strerror or error
        raise RecipeError(f"--out {draft.file}: cannot be written: {reason}") from error
    finally:
        aside.unlink(missing_ok=True)
    return draft, trial, choice


def _write(draft: Draft, aside: Path) -> recipe.Recipe:
    """Write the recipe to a file beside its place; return it as it loads."""
    aside.write_text(recipe_text(draft), encoding="utf-8")
    try:
        loaded, _ = recipe.load(aside)
    except RecipeError as error:
        reason = str(error).replace(aside.name, draft.file.name)
        raise RecipeError(f"what `qpipe new` would write does not load: {reason}") from error
    return loaded
