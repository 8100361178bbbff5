"""F1 against counts by hand and a straight program in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe_plugins.metric.f1 import f1


def score(metric: qpipe.Metric, pairs: list[tuple[Any, Any]]) -> float:
    return metric.reduce([metric.contribution(*pair) for pair in pairs])


def one_hot(label: int, count: int = 3) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[[label]]


def answers(*pairs: tuple[int, int]) -> list[tuple[Any, Any]]:
    """Pairs of answer and label."""
    return [({"y": one_hot(answer)}, label) for answer, label in pairs]


def test_macro_is_the_mean_over_classes_by_hand() -> None:
    pairs = answers((0, 0), (0, 0), (0, 1), (1, 1), (2, 1), (2, 2))
    # class 0: 2 true, 1 false; class 1: 1 true, 2 missed; class 2: 1 true, 1 false
    assert score(f1(), pairs) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


def test_micro_over_labels_is_the_share_that_is_right() -> None:
    pairs = answers((0, 0), (0, 0), (0, 1), (1, 1), (2, 1), (2, 2))
    assert score(f1(average="micro"), pairs) == pytest.approx(4 / 6)


def test_binary_is_of_label_1_alone() -> None:
    pairs = [
        ({"y": one_hot(answer, 2)}, label)
        for answer, label in ((1, 1), (1, 0), (0, 1), (1, 1), (0, 0), (0, 0))
    ]
    assert score(f1(average="binary"), pairs) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert score(f1(average="binary"), pairs[-2:]) == 0.0, "nothing to be found, nothing found"


def test_one_score_with_a_threshold_is_an_answer_of_0_or_1() -> None:
    pairs = [
        (np.float32([[value]]), label)
        for value, label in ((0.9, 1), (0.5, 1), (0.4, 1), (0.7, 0), (0.1, 0))
    ]
    assert score(f1(average="binary", threshold=0.5), pairs) == pytest.approx(
        2 * 2 / (2 * 2 + 1 + 1)
    )


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_several_labels_a_sample_are_what_numpy_counts(average: Any) -> None:
    rng = np.random.default_rng(5)
    scores, targets = rng.random((40, 6)), (rng.random((40, 6)) < 0.4).astype(int)
    answered = scores >= 0.6
    true, wrong, missed = (
        answered & (targets == 1),
        answered & (targets == 0),
        ~answered & (targets == 1),
    )
    counts = [each.sum(axis=0 if average == "macro" else None) for each in (true, wrong, missed)]
    expected = np.mean(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
    pairs = [
        ({"y": row[None]}, target.tolist()) for row, target in zip(scores, targets, strict=True)
    ]
    assert score(f1(average=average, threshold=0.6), pairs) == pytest.approx(expected, rel=1e-12)


def test_classes_that_occur_nowhere_are_left_out_of_the_mean() -> None:
    assert score(f1(), [(one_hot(7, 10), 7), (one_hot(2, 10), 2)]) == 1.0
    assert score(f1(), [(one_hot(7, 10), 7), (one_hot(2, 10), 7)]) == pytest.approx((2 / 3 + 0) / 2)


def test_no_number_and_the_background_are_no_answer() -> None:
    assert score(f1(), [(np.float32([np.nan, 1, 2]), 2), (one_hot(1), 1)]) == pytest.approx(
        (0 + 1) / 2
    )
    assert score(f1(first=1), [(one_hot(0), 1), (one_hot(1), 0)]) == pytest.approx((0 + 1) / 2)


def test_the_names_tell_the_averages_apart() -> None:
    assert [f1().name, f1(average="micro").name, f1(average="binary").name] == [
        "f1_macro",
        "f1_micro",
        "f1",
    ]


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, 3, "label 3, but the network gives 3 scores; labels count from 0, so the last is 2"),
        ({}, [0, 1, 0], "target [0, 1, 0] is no label; it is a whole number from 0"),
        (
            {"threshold": 0.5},
            [0, 1],
            "target [0, 1] is no list of 3 zeros and ones, one for each score; for labels",
        ),
        (
            {"threshold": 0.5},
            [0, 1, 2],
            "target [0, 1, 2] is no list of 3 zeros and ones, one for each score",
        ),
        (
            {"threshold": 0.5},
            1,
            "target 1 and 3 scores with a threshold; give a list of 0 and 1 for each score, or",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_named(
    options: dict[str, Any], target: Any, message: str
) -> None:
    with pytest.raises(qpipe.StageError) as raised:
        f1(**options).contribution(one_hot(0), target)
    assert str(raised.value).startswith(f"metric f1: {message}")
