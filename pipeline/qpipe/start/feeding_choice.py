"""Which of the feedings that were scored is to be used, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnx_ir as ir

from qpipe.compare import evidence, intervals
from qpipe.engine.float_scores import scoring_stages
from qpipe.recipe.recipe import Recipe
from qpipe.start.feeding import SQUEEZED_NOTE, Setting
from qpipe.start.feeding_trial import FeedingTrial, ScoredFeeding, TrialScoring
from qpipe.start.label_numbering import LabelNumbering, plausible_numberings
from qpipe.start.plausible_feedings import Fit, plausible_feedings, plausible_fits
from qpipe.start.recipe_text import Draft
from qpipe.start.scalings import Preferences

CONFIDENCE = 0.95
PICTURE_KINDS = ("images", "coco")
ACCIDENTAL_PRECISION = 0.02  # mean average precision of boxes that have nothing to do with it
MOST_NAMED = 3


@dataclass(frozen=True)
class FeedingChoice:
    """The feedings that were scored, best first, and the score that chance alone reaches."""

    rows: Sequence[ScoredFeeding]
    chance: float

    @property
    def best(self) -> ScoredFeeding:
        """The feeding with the highest score."""
        return self.rows[0]

    @property
    def count(self) -> int:
        """The number of samples that each was scored on."""
        return self.best.score.n

    @cached_property
    def rivals(self) -> list[ScoredFeeding]:
        """The others that the best is not shown to be better than, on the same samples."""
        return [row for row in self.rows[1:] if not _is_shown_better(self.best, row)]

    @property
    def fits(self) -> bool:
        """Whether the best is shown to score above chance, as the best of so many."""
        score = self.best.score
        if score.low is None or score.high is None:
            return False
        level = 1 - (1 - CONFIDENCE) / len(self.rows)
        low, _ = intervals.at_level((score.low, score.high), score.value, score.n, level)
        return low > self.chance


def choose_feeding(
    draft: Draft,
    recipe: Recipe,
    model: ir.Model,
    preferences: Preferences,
    notify: Callable[[str], None],
) -> FeedingChoice | None:
    """Score the plausible feedings of the recipe that was drafted; None where it feeds no pictures.

    The recipe scores its samples against targets.
    """
    picture = draft.network.picture
    kind = draft.source.kind
    if picture is None or kind not in PICTURE_KINDS:
        return None
    size = recipe.samples.options["size"]
    height_and_width = (size, size) if isinstance(size, int) else size
    fits = plausible_fits(kind, draft.guess, height_and_width)
    plausible = plausible_feedings(draft.network, picture, draft.guess, preferences, fits)
    trial = FeedingTrial(model, recipe.samples, _scoring(draft, recipe))
    notify("scoring the plausible feedings on a few labelled samples")
    rows = trial.rank(plausible)
    if not rows:
        return None
    chance = ACCIDENTAL_PRECISION
    if rows[0].label_probabilities:
        chance = max(1 / draft.guess.classes, trial.largest_class_share())
    return FeedingChoice(rows, chance)


def _scoring(draft: Draft, recipe: Recipe) -> TrialScoring:
    """Return how the recipe scores against targets, under each numbering of labels that fits."""
    stage = scoring_stages(recipe)[0]
    labels = draft.source.labels
    if labels is None:
        (metric,) = stage.target_metrics
        return TrialScoring([LabelNumbering()], lambda _: metric, stage.postprocess)
    accuracy = next(call for call in recipe.measure if call.name == "accuracy")
    make_metric = accuracy.options["metric"][0].stage.function
    return TrialScoring(
        plausible_numberings(labels, draft.guess.classes),
        lambda numbering: make_metric(first=numbering.first),
        stage.postprocess,
        gives_class_scores=True,
    )


def _is_shown_better(first: ScoredFeeding, second: ScoredFeeding) -> bool:
    """Return whether the score, or else the probability of the label, is shown to be higher.

    Both are paired by sample. Few samples tell probabilities apart where right and wrong does not.
    """
    low, _ = evidence.difference(first.score, second.score)
    if low > 0:
        return True
    if not first.label_probabilities:
        return False
    _, interval = intervals.paired_difference(first.label_probabilities, second.label_probabilities)
    return interval is not None and interval[0] > 0


# ---- the recipe


def with_feeding(draft: Draft, choice: FeedingChoice) -> Draft:
    """Return the draft with the best feeding, where one fits; what it leaves open has a check."""
    if not choice.fits:
        return replace(draft, feeding_note=f"CHECK: {describe_choice(choice)}")
    best = choice.best
    mark = "CHECK: " if choice.rivals else ""
    same_numbering = all(row.numbering == best.numbering for row in choice.rivals)
    settings = _with_fit(draft.settings, best)
    return replace(
        draft,
        settings=[_settled(setting, choice) for setting in settings],
        metric=best.numbering.metric if best.label_probabilities else draft.metric,
        feeding_note=mark + describe_choice(choice),
        is_numbering_shown=same_numbering,
    )


def describe_choice(choice: FeedingChoice) -> str:
    """Return how clear the choice is, in a sentence."""
    best = choice.best
    samples = f"these {choice.count} samples"
    score = f"{best.score.metric} {best.score.value:.3f}"
    if not choice.fits:
        return (
            f"nothing fits: on {samples} even {best.words} is not shown to score above chance "
            f"({score}, by chance {choice.chance:.3f}); check labels, their numbering, and pictures"
        )
    if not choice.rivals:
        others = f"{len(choice.rows) - 1} others"
        return f"on {samples} {best.words} is shown to be better than the {others} ({score})"
    named = [f"{row.words} ({row.score.value:.3f})" for row in choice.rivals[:MOST_NAMED]]
    unnamed_count = len(choice.rivals) - len(named)
    more = f" and {unnamed_count} more" if unnamed_count else ""
    rivals = "; ".join(named)
    return f"on {samples} {best.words} ({score}) is not shown to be better than {rivals}{more}"


def _with_fit(settings: Sequence[Setting], best: ScoredFeeding) -> list[Setting]:
    """Return the settings with one for a fit that is not the default of the stage."""
    is_missing = all(setting.name != "crop" for setting in settings)
    if best.feeding.fit == Fit("crop", "none") and is_missing:
        return [*settings, Setting("crop", "none", SQUEEZED_NOTE)]
    return list(settings)


def _settled(setting: Setting, choice: FeedingChoice) -> Setting:
    """Return a setting with its value in the best feeding, and a check of what may be as good."""
    values = _options(choice.best)
    if setting.name not in values:
        return setting
    value = values[setting.name]
    alternatives: list[str] = []
    for row in choice.rivals:
        other = _options(row).get(setting.name)
        if other != value and f"{other}" not in alternatives:
            alternatives.append(f"{other}")
    check = f"{' or '.join(alternatives)} may be as good, see above" if alternatives else ""
    return replace(setting, value=value, check=check)


def _options(row: ScoredFeeding) -> dict[str, Any]:
    return {**row.feeding.options, "class_order": row.numbering.class_order}
