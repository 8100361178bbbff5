"""PASCAL VOC's mean average precision, against the devkit's program line by line and cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe_plugins.metric.voc_map import voc_map

Pairs = list[tuple[dict[str, Any], dict[str, Any]]]
LABELS = 4


def score(metric: qpipe.Metric, pairs: Pairs) -> float:
    return metric.reduce([metric.contribution(*pair) for pair in pairs])


def found(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Any]:
    """Rows of x1, y1, x2, y2, label, score."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return {
        "boxes": table[:, :4].astype(np.float32),
        "labels": table[:, 4].astype(np.int64),
        "scores": table[:, 5],
    }


def overlap(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(width * height / (sum(areas) - width * height))


def vocevaldet(pairs: Pairs, label: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of one class, as VOCevaldet.m goes about it."""
    truths = []
    for _, target in pairs:
        difficult = target.get("difficult", [0] * len(target["labels"]))
        rows = zip(target["boxes"], target["labels"], difficult, strict=True)
        truths.append(
            [
                {"box": box, "difficult": hard, "detected": False}
                for box, of, hard in rows
                if of == label
            ]
        )
    npos = sum(not truth["difficult"] for image in truths for truth in image)
    table = [
        (confidence, image, box)
        for image, (prediction, _) in enumerate(pairs)
        for box, of, confidence in zip(
            *(prediction[n] for n in ("boxes", "labels", "scores")), strict=True
        )
        if of == label
    ]
    table.sort(key=lambda row: -row[0])
    tp, fp = np.zeros(len(table)), np.zeros(len(table))
    for d, (_, image, box) in enumerate(table):
        ovmax, best = -np.inf, None
        for truth in truths[image]:
            if (ov := overlap(box, truth["box"])) > ovmax:
                ovmax, best = ov, truth
        if best is None or ovmax < least:
            fp[d] = 1
        elif not best["difficult"]:
            (fp if best["detected"] else tp)[d] = 1
            best["detected"] = True
    fp, tp = np.cumsum(fp), np.cumsum(tp)
    with np.errstate(invalid="ignore"):
        return tp / npos, np.nan_to_num(tp / (fp + tp))


def vocap(rec: np.ndarray, prec: np.ndarray) -> float:
    """VOCap.m: since 2010."""
    mrec, mpre = np.array([0, *rec, 1]), np.array([0, *prec, 0])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(
        sum(
            (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
        )
    )


def eleven(rec: np.ndarray, prec: np.ndarray) -> float:
    """As VOCevaldet.m of 2007 ends."""
    ap = 0.0
    for t in range(11):
        p = [value for value, at in zip(prec, rec, strict=True) if at >= t / 10]
        ap += (max(p) if p else 0.0) / 11
    return ap


def devkit(pairs: Pairs, least: float, points: Any) -> float:
    wanted = set()
    for _, target in pairs:
        difficult = target.get("difficult", [0] * len(target["labels"]))
        wanted |= {
            label for label, hard in zip(target["labels"], difficult, strict=True) if not hard
        }
    average = eleven if points == 11 else vocap
    return float(np.mean([average(*vocevaldet(pairs, label, least)) for label in sorted(wanted)]))


def scenes(count: int, seed: int) -> Pairs:
    """Noisy detections of random boxes, some of them difficult, with tied scores and empty images."""
    rng = np.random.default_rng(seed)
    pairs: Pairs = []
    for _ in range(count):
        wanted, guesses = int(rng.integers(0, 6)), int(rng.integers(0, 15))
        corner = rng.uniform(0, 100, (wanted, 2))
        boxes = np.hstack([corner, corner + rng.uniform(10, 60, (wanted, 2))])
        labels = rng.integers(0, LABELS, wanted)
        target = {
            "boxes": boxes.tolist(),
            "labels": labels.tolist(),
            "difficult": (rng.random(wanted) < 0.2).tolist(),
        }
        near = rng.integers(0, wanted, guesses) if wanted else np.zeros(0, int)
        noisy = boxes[near] + rng.normal(0, 5, (len(near), 4))
        noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 1)
        guessed = np.where(
            rng.random(len(near)) < 0.8, labels[near], rng.integers(0, LABELS + 1, len(near))
        )
        pairs.append(
            (
                {"boxes": noisy, "labels": guessed, "scores": np.round(rng.random(len(near)), 2)},
                target,
            )
        )
    return pairs


@pytest.mark.parametrize("points", ["all", 11])
@pytest.mark.parametrize("iou", [0.5, 0.7])
def test_it_is_what_the_devkit_computes(iou: float, points: Any) -> None:
    for seed in range(5):
        pairs = scenes(25, seed)
        # sums of at most a thousand terms below 1
        assert score(voc_map(iou=iou, points=points), pairs) == pytest.approx(
            devkit(pairs, iou, points), abs=1e-12
        )


def test_a_resample_scores_as_if_the_samples_had_been_there_twice() -> None:
    pairs, metric = scenes(12, 7), voc_map()
    contributions = [metric.contribution(*pair) for pair in pairs]
    draw = np.random.default_rng(3).integers(0, 12, 12)
    twice = [pairs[i] for i in draw]
    assert metric.reduce([contributions[i] for i in draw]) == pytest.approx(
        devkit(twice, 0.5, "all"), abs=1e-12
    )


BOX, AWAY = (0, 0, 10, 10), (50, 50, 60, 60)


def test_two_boxes_found_around_a_mistake_by_hand() -> None:
    # true, false, true of two: precision 1 up to recall 1/2, then 2/3
    target = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [1, 1]}
    prediction = found((*BOX, 1, 0.9), (*AWAY, 1, 0.8), (20, 20, 30, 30, 1, 0.7))
    assert score(voc_map(), [(prediction, target)]) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    # recalls 0 to 0.5 are six of eleven
    assert score(voc_map(points=11), [(prediction, target)]) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_box_found_twice_is_a_mistake_the_second_time() -> None:
    target = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [0, 0]}
    twice = found((*BOX, 0, 0.9), (0, 0, 10, 9, 0, 0.8), (20, 20, 30, 30, 0, 0.7))
    assert score(voc_map(), [(twice, target)]) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize("difficult", [[True, False], [1, 0]])
def test_a_difficult_box_need_not_be_found_and_does_not_count(difficult: list[Any]) -> None:
    target = {"boxes": [list(BOX), list(AWAY)], "labels": [0, 0], "difficult": difficult}
    assert score(voc_map(), [(found((*AWAY, 0, 0.5)), target)]) == 1.0
    also = found((*BOX, 0, 0.9), (*BOX, 0, 0.8), (*AWAY, 0, 0.5))
    assert score(voc_map(), [(also, target)]) == 1.0
    assert score(voc_map(), [(found(), target)]) == 0.0


def test_of_classes_that_are_nowhere_nothing_is_asked() -> None:
    target = {"boxes": [list(BOX)], "labels": [2]}
    assert score(voc_map(), [(found((*BOX, 2, 0.9), (*AWAY, 3, 0.9)), target)]) == 1.0
    assert score(voc_map(), [(found((*BOX, 2, 0.9)), {"boxes": [], "labels": []})]) == 0.0


def test_the_name_says_the_overlap_and_the_points() -> None:
    assert [voc_map().name, voc_map(iou=0.7).name, voc_map(points=11).name] == [
        "voc_map50",
        "voc_map70",
        "voc_map50_11",
    ]


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(
        qpipe.StageError, match=r"^metric voc_map: a target has int; it has boxes, labels"
    ):
        voc_map().contribution(found(), 3)
    target = {"boxes": [list(BOX)], "labels": [1], "difficult": [1, 0]}
    with pytest.raises(
        qpipe.StageError,
        match=r"a target has 1 boxes, but difficult is \[2\]; give one for each box$",
    ):
        voc_map().contribution(found(), target)
