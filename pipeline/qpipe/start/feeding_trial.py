"""A network fed with the same pictures in several ways, and how each scores against the labels."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.compare.scoring import Scores
from qpipe.errors import StageError
from qpipe.quant.inference import infer, open_session
from qpipe.recipe.stage_call import Call
from qpipe.samples.preprocess import network_input
from qpipe.samples.selection import take_evenly
from qpipe.start.label_numbering import LabelNumbering, renumbered
from qpipe.start.plausible_feedings import Feeding, Fit, PlausibleFeedings
from qpipe.start.trial_run import trial_samples
from qpipe.types import Array, Measurement, Metric, Preprocessing, Sample

ALL_CORES = 0
MOST_SECONDS = 30.0  # of inference; of a network that is too slow for it, fewer samples are scored
FEWEST_SAMPLES = 12
TIMED_INFERENCES = 3  # the fastest counts: the first is slow, and the machine may be busy


@dataclass(frozen=True)
class TrialScoring:
    """How outputs are scored against targets, for each way in which labels may be numbered."""

    numberings: Sequence[LabelNumbering]
    metric: Callable[[LabelNumbering], Metric]
    postprocess: Callable[[Mapping[str, Array]], Any] | None = None
    gives_class_scores: bool = False  # whether the first output has a score for each class


@dataclass(frozen=True)
class ScoredFeeding:
    """A feeding and a numbering of labels, with the score on the trial's samples.

    `label_probabilities` are those that a classifier gives to the label, by sample.
    """

    feeding: Feeding
    numbering: LabelNumbering
    score: Measurement
    label_probabilities: Sequence[float] = ()

    @property
    def words(self) -> str:
        """Both as a row of a table names them."""
        return ", ".join(filter(None, (self.feeding.words, self.numbering.words)))

    def shares_part_with(self, other: ScoredFeeding) -> bool:
        """Return whether the other feeds the same way, or numbers labels the same way."""
        return self.feeding == other.feeding or self.numbering == other.numbering

    @property
    def merit(self) -> tuple[float, float]:
        """What feedings are ranked by: the score, then the probability of the label."""
        probabilities = self.label_probabilities
        return self.score.value, float(np.mean(probabilities)) if probabilities else 0.0


@dataclass(frozen=True)
class _Pictures:
    """The labelled pictures of one fit, as they lie in memory: uint8 [H, W, C]."""

    samples: Sequence[Sample]
    preprocessing: Preprocessing
    classes: Sequence[str]

    def is_like(self, other: _Pictures) -> bool:
        """Return whether all pictures are the same in both, so that the fit changes nothing."""
        pairs = zip(self.samples, other.samples, strict=True)
        return all(np.array_equal(_pixels(first), _pixels(second)) for first, second in pairs)


class FeedingTrial:
    """A float network and the call of the samples stage that feeds it with pictures.

    The pictures are decoded once for each fit, and kept in memory.
    """

    def __init__(self, model: ir.Model, call: Call, scoring: TrialScoring) -> None:
        self.session = open_session(model, threads=ALL_CORES)
        self.input_name = str(model.graph.inputs[0].name)
        self.call = call
        self.scoring = scoring
        self.pictures_by_fit: dict[Fit, _Pictures] = {}

    def rank(self, plausible: PlausibleFeedings) -> list[ScoredFeeding]:
        """Return the feedings that were scored, best first: of equals the more usual first.

        All scalings and color orders are scored with the usual fit, then the other fits with the
        best of these; where one of those is better, all are scored with it. Of the numberings of
        labels, each feeding has that of the best, and the best has all.
        """
        usual_fit = plausible.fits[0]
        if not self._pictures(usual_fit).samples:
            return []
        feedings = _with_fit(plausible, usual_fit)
        count = self._affordable_count(usual_fit, len(feedings) + len(plausible.fits) - 1)
        scored = self._score_all(feedings, count)
        if not scored:
            return []
        best = _best(scored)
        for fit in plausible.fits[1:]:
            if not self._pictures(fit).is_like(self._pictures(usual_fit)):
                scored += self._score_all([replace(best.feeding, fit=fit)], count)
        best = _best(scored)
        if best.feeding.fit != usual_fit:
            others = [
                feeding
                for feeding in _with_fit(plausible, best.feeding.fit)
                if feeding != best.feeding
            ]
            scored += self._score_all(others, count)
            best = _best(scored)
        shown = [row for row in scored if best.shares_part_with(row)]
        return sorted(shown, key=lambda row: row.merit, reverse=True)

    def largest_class_share(self) -> float:
        """Return the share of samples that a network gets right which always gives one answer."""
        pictures = next(iter(self.pictures_by_fit.values()))
        counts = Counter(sample.target for sample in pictures.samples)
        return max(counts.values()) / len(pictures.samples)

    def _affordable_count(self, fit: Fit, feeding_count: int) -> int:
        """Return how many samples can be scored within the time, by that of one inference."""
        pictures = self._pictures(fit)
        feeds = self._feeds(pictures.samples[0], pictures.preprocessing)
        seconds = min(self._seconds_of_inference(feeds) for _ in range(TIMED_INFERENCES))
        affordable = int(MOST_SECONDS / (seconds * feeding_count))
        return min(max(affordable, FEWEST_SAMPLES), len(pictures.samples))

    def _seconds_of_inference(self, feeds: Mapping[str, Array]) -> float:
        start = time.perf_counter()
        infer(self.session, feeds)
        return time.perf_counter() - start

    def _pictures(self, fit: Fit) -> _Pictures:
        """Return the labelled pictures in this fit, in the order R, G, B or grey."""
        if fit not in self.pictures_by_fit:
            color_order = "grey" if self.call.options["color_order"] == "grey" else "RGB"
            options = {**self.call.options, fit.option: fit.value, "color_order": color_order}
            with tempfile.TemporaryDirectory() as folder:
                samples = trial_samples(replace(self.call, options=options), Path(folder))
                labelled = [sample for sample in samples if sample.target is not None]
            (preprocessing,) = samples.preprocessing.values()
            self.pictures_by_fit[fit] = _Pictures(labelled, preprocessing, samples.classes)
        return self.pictures_by_fit[fit]

    def _score_all(self, feedings: Sequence[Feeding], count: int) -> list[ScoredFeeding]:
        return [row for feeding in feedings for row in self._score(feeding, count)]

    def _score(self, feeding: Feeding, count: int) -> list[ScoredFeeding]:
        """Return the score for each numbering; none where the outputs cannot be scored."""
        pictures = self._pictures(feeding.fit)
        samples = take_evenly(pictures.samples, count)
        preprocessing = replace(
            pictures.preprocessing,
            mean=_as_tuple(feeding.options["mean"]),
            std=_as_tuple(feeding.options["std"]),
        )
        tallies = [_Tally(self.scoring, numbering) for numbering in self.scoring.numberings]
        try:
            for sample in samples:
                outputs = infer(
                    self.session, self._feeds(sample, preprocessing, feeding.color_order)
                )
                for tally in tallies:
                    tally.add(sample, outputs, pictures.classes)
        except StageError:
            return []
        return [tally.result(feeding) for tally in tallies]

    def _feeds(
        self, sample: Sample, preprocessing: Preprocessing, color_order: str = "RGB"
    ) -> dict[str, Array]:
        pixels = _pixels(sample)
        if color_order == "BGR":
            pixels = pixels[..., ::-1]
        return {self.input_name: network_input(pixels, asdict(preprocessing))}


def _with_fit(plausible: PlausibleFeedings, fit: Fit) -> list[Feeding]:
    return [
        Feeding(scaling, color_order, fit)
        for scaling in plausible.scalings
        for color_order in plausible.color_orders
    ]


def _best(scored: Sequence[ScoredFeeding]) -> ScoredFeeding:
    """Return the first of those with the highest merit."""
    return max(scored, key=lambda row: row.merit)


class _Tally:
    """The score of one feeding under one numbering, sample by sample."""

    def __init__(self, scoring: TrialScoring, numbering: LabelNumbering) -> None:
        self.numbering = numbering
        self.gives_class_scores = scoring.gives_class_scores
        self.scores = Scores([scoring.metric(numbering)], scoring.postprocess)
        self.label_probabilities: list[float] = []

    def add(self, sample: Sample, outputs: Mapping[str, Array], classes: Sequence[str]) -> None:
        numbered = sample
        if self.gives_class_scores:
            target = renumbered(sample.target, self.numbering, classes)
            numbered = replace(sample, target=target)
            scores = next(iter(outputs.values()))
            self.label_probabilities.append(_probability(scores, target + self.numbering.first))
        self.scores.add(numbered, outputs, outputs)

    def result(self, feeding: Feeding) -> ScoredFeeding:
        (score,) = self.scores.measurements()
        return ScoredFeeding(feeding, self.numbering, score, self.label_probabilities)


def _pixels(sample: Sample) -> Array:
    (pixels,) = sample.inputs.values()
    return pixels


def _as_tuple(numbers: float | list[float]) -> tuple[float, ...]:
    return tuple(numbers) if isinstance(numbers, list) else (numbers,)


def _probability(scores: Array, index: int) -> float:
    """Return the probability of a class, by its probabilities or their logits."""
    values = scores.astype(np.float64).ravel()
    if not np.isfinite(values).all() or not 0 <= index < len(values):
        return 0.0
    if values.min() < 0 or not np.isclose(values.sum(), 1, atol=0.01):
        powers = np.exp(values - values.max())
        values = powers / powers.sum()
    return float(values[index])
