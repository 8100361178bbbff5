"""Checks of metrics: contributions of samples, their reduction, and what it states of both."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qpipe.compare.scoring import Scores
from qpipe.testing.checks import NonconformityError, NotApplicableError, Subject, require
from qpipe.types import SHARE, Metric, Sample

ROUNDING = 1e-9
SAMPLE_COUNT = 4


class Answer(NamedTuple):
    """A prediction of one sample, and what metrics compare it with."""

    prediction: Any
    target: Any
    float_prediction: Any

    def reference(self, metric: Metric) -> Any:
        """Return what the metric compares the prediction with."""
        return self.target if metric.against == "target" else self.float_prediction


class Answers(NamedTuple):
    """The same samples, answered right and answered wrong."""

    right: list[Answer]
    wrong: list[Answer]

    def add(self, right: Any, wrong: Any, target: Any) -> None:
        """Add a sample with a right and a wrong prediction; float's is right."""
        self.right.append(Answer(right, target, copy.deepcopy(right)))
        self.wrong.append(Answer(wrong, target, copy.deepcopy(right)))


def _class_scores() -> Answers:
    answers = Answers([], [])
    for label in range(SAMPLE_COUNT):
        scores = np.full((1, SAMPLE_COUNT), 0.1, np.float32)
        scores[0, label] = 0.7
        answers.add({"scores": scores}, {"scores": np.roll(scores, 1)}, label)
    return answers


def _detections() -> Answers:
    answers = Answers([], [])
    for number in range(SAMPLE_COUNT):
        boxes = np.array([[4, 4, 20, 20], [30, 30, 50, 44]], np.float32) + number
        labels = np.array([0, 1])
        # all different: of equal scores, COCO counts those of earlier samples first
        scores = np.array([0.9, 0.8], np.float32) - np.float32(0.02) * number
        right = {"boxes": boxes, "scores": scores, "labels": labels}
        wrong = {"boxes": boxes[:1] + 100, "scores": scores[:1] - 0.01, "labels": labels[:1]}
        answers.add(right, wrong, {"boxes": boxes.tolist(), "labels": labels.tolist()})
    return answers


def _texts() -> Answers:
    answers = Answers([], [])
    for line in ("one two three", "four five", "six", "seven eight nine ten"):
        answers.add({"text": line}, {"text": f"{line[1:]} more"}, line)
    return answers


def _numbers() -> Answers:
    answers = Answers([], [])
    for number in range(1, SAMPLE_COUNT + 1):
        value = np.full((1, 1), number, np.float32)
        answers.add({"value": value}, {"value": -value}, float(number))
    return answers


# what a metric may be for; the first that it takes is used
USUAL_ANSWERS = (_class_scores, _detections, _texts, _numbers)


def contributions_are_of_one_sample(subject: Subject, folder: Path) -> str:
    """Require a contribution of each sample alone, the same again, that changes no argument."""
    metric, answers = _metric_and_answers(subject)
    for answer in answers.right + answers.wrong:
        before = copy.deepcopy(answer)
        first = metric.contribution(answer.prediction, answer.reference(metric))
        second = metric.contribution(answer.prediction, answer.reference(metric))
        require(_is_same(first, second), "two calls with one sample give different contributions")
        is_unchanged = _is_same(before, answer)
        require(is_unchanged, "it changes the prediction or the target that it is given")
    return f"{len(answers.right + answers.wrong)} predictions"


def value_is_a_number(subject: Subject, folder: Path) -> str:
    """Require a finite number of any samples: all, each alone, some twice."""
    metric, answers = _metric_and_answers(subject)
    contributions = _contributions(metric, answers.right)
    draws = [contributions, contributions * 2, *([one] for one in contributions)]
    values = [metric.reduce(draw) for draw in draws]
    for value in values:
        is_number = isinstance(value, int | float | np.number) and math.isfinite(value)
        require(is_number, f"its reduction gives {value!r}; it must be a finite number")
    return f"{metric.name} {float(values[0]):g} {metric.unit}".rstrip()


def order_does_not_matter(subject: Subject, folder: Path) -> str:
    """Require the same value whatever the order of the samples."""
    metric, answers = _metric_and_answers(subject)
    contributions = _contributions(metric, answers.right + answers.wrong)
    value = float(metric.reduce(contributions))
    orders = (contributions[::-1], contributions[1::2] + contributions[::2])
    for order in orders:
        other = float(metric.reduce(order))
        is_same = math.isclose(value, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
        require(is_same, f"the same samples in another order give {other!r} instead of {value!r}")
    return f"{len(orders)} other orders"


def better_is_better(subject: Subject, folder: Path) -> str:
    """Require that right answers score at least as well as wrong ones, by `better`."""
    metric, answers = _metric_and_answers(subject)
    if not answers.wrong:
        raise NotApplicableError("which predictions are wrong is not known of the examples")
    right = float(metric.reduce(_contributions(metric, answers.right)))
    wrong = float(metric.reduce(_contributions(metric, answers.wrong)))
    is_better = right >= wrong if metric.better == "max" else right <= wrong
    scores = f"right answers score {right:g}, wrong ones {wrong:g}"
    require(is_better, f"{scores}, but better is {metric.better}")
    return scores


def a_share_is_within_0_and_1(subject: Subject, folder: Path) -> str:
    """Require values from 0 to 1 of a metric whose unit is share."""
    metric, answers = _metric_and_answers(subject)
    if metric.unit != SHARE:
        raise NotApplicableError(f"its unit is '{metric.unit}'")
    contributions = _contributions(metric, answers.right + answers.wrong)
    draws = [contributions, *([one] for one in contributions)]
    for draw in draws:
        value = float(metric.reduce(draw))
        problem = f"it gives {value:g}, which is no share; leave the unit out, or divide"
        require(0 <= value <= 1, problem)
    return f"{len(draws)} values"


def scores_have_an_interval(subject: Subject, folder: Path) -> str:
    """Require that qpipe scores with it: a value within its 95 % interval."""
    metric, answers = _metric_and_answers(subject)
    scores = Scores([metric])
    for number, answer in enumerate(answers.right + answers.wrong):
        sample = Sample(str(number), {}, answer.target)
        scores.add(sample, answer.prediction, answer.float_prediction)
    measurements = scores.measurements()
    require(len(measurements) == 1, "its samples have no target to compare with")
    value = measurements[0].value
    low = measurements[0].low
    high = measurements[0].high
    if low is None or high is None:
        raise NonconformityError("its value has no interval")
    is_within = low - ROUNDING <= value <= high + ROUNDING
    require(is_within, f"its value {value:g} is not within its interval, {low:g} to {high:g}")
    return f"{value:g} ({low:g} to {high:g})"


def _metric_and_answers(subject: Subject) -> tuple[Metric, Answers]:
    """Return the metric, and predictions that it takes; raise NotApplicableError without any."""
    metric: Metric = subject.stage.function(**subject.call().resolved())
    require(isinstance(metric, Metric), f"it gives {type(metric).__name__}; return a qpipe.Metric")
    if subject.examples:
        answers = [
            Answer(prediction, target, prediction) for prediction, target in subject.examples
        ]
        return metric, Answers(answers, [])
    reasons = []
    for make_answers in USUAL_ANSWERS:
        tried = make_answers()
        try:
            _contributions(metric, tried.right + tried.wrong)
        except Exception as error:  # noqa: BLE001  (foreign code: it takes other predictions)
            reasons.append(str(error))
        else:
            return metric, make_answers()  # it may have changed the others
    fix = "give examples: qpipe.testing.checks(..., examples=[(prediction, target), ...])"
    raise NotApplicableError(f"it takes no usual prediction ({reasons[0]}); {fix}")


def _contributions(metric: Metric, answers: Sequence[Answer]) -> list[Any]:
    return [metric.contribution(answer.prediction, answer.reference(metric)) for answer in answers]


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, with all arrays in them."""
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True
